// Cases that move a gigabyte or run for a minute: scaled down in `npm test`, whole in `npm run soak`.

/** Whether this is a soak. */
export const isSoak = process.env['MICROVISOR_SOAK'] === '1';

/** The amount of a case: what a usual run does of it, and what the case is when it is whole. */
export function amount(usual: number, whole: number): number {
  return isSoak ? whole : usual;
}
