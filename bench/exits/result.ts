// What a run of the exit benchmark gives: its JSON, and the figures in it that two runs are compared by.
import type { MachineInfo } from '../machine.js';
import type { Figure } from './compare.js';
import type { GrowthPoint } from './growth.js';
import type { Isolated } from './isolated.js';
import type { Cell, MeasuredCell } from './measure.js';

export interface ExitsResult {
  readonly benchmark: 'exits';
  readonly machine: MachineInfo;
  /** Version of QEMU; null when it is not installed. */
  readonly qemu: string | null;
  /** Why there were no exits to measure; null when there were. */
  readonly noKvm: string | null;
  /** Of the host's KVM: every case with every tier. */
  readonly cells: readonly Cell[];
  /** Of a KVM that does nothing: what is left is our own cost, with warm caches. */
  readonly warm: readonly Cell[];
  readonly growth: readonly GrowthPoint[] | string;
  readonly isolated: Isolated;
}

/** The tier that is a machine's own. */
export const MACHINE_TIER = 'statistics';

export function cellAt(cells: readonly Cell[], caseId: string, tierId: string): MeasuredCell | undefined {
  const found = cells.find((cell) => cell.case === caseId && cell.tier === tierId);
  return found?.reason === undefined ? found : undefined;
}

const OWN_TIERS = ['inline', 'worker', MACHINE_TIER, 'trace'];

/** Every measured cell: our tiers by what they take beyond the C loop, the others by what they take. */
export function figuresOf(result: Pick<ExitsResult, 'cells' | 'warm'>): readonly Figure[] {
  const of = (cells: readonly Cell[], where: string): Figure[] =>
    cells.flatMap((cell) => {
      if (cell.reason !== undefined) return [];
      const isOwnCost = OWN_TIERS.includes(cell.tier);
      const ns = isOwnCost ? cell.beyondC : cell.ns;
      return [{ name: `${cell.case}, ${cell.tier}${where}`, isOwnCost, ns }];
    });
  return [...of(result.cells, ''), ...of(result.warm, ', warm')];
}
