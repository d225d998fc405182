// The words of the configuration's checks: whole numbers, texts and choices, each with its sentence.
// valibot, whose issues become a ConfigError in config.ts.
import * as v from 'valibot';

export const integer = (what: string, low: number, high: number) =>
  v.pipe(
    v.number(`${what} must be a whole number from ${low} to ${high}`),
    v.integer(`${what} must be a whole number from ${low} to ${high}`),
    v.minValue(low, `${what} must be a whole number from ${low} to ${high}`),
    v.maxValue(high, `${what} must be a whole number from ${low} to ${high}`),
  );

export const text = (what: string) =>
  v.pipe(
    v.string(`${what} must be a text`),
    v.check((value) => !value.includes('\0'), `${what} has a NUL byte; take it out`),
  );

export const oneOf = <const T extends readonly string[]>(options: T) =>
  v.picklist(options, `must be one of ${options.join(', ')}`);
