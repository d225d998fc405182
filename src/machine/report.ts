// A machine's report: what `--report` writes and `vm.report()` gives. Plain JSON, all of it measured.
import { EXIT_NAMES } from '../vcpu/observe/exit-names.js';
import type { ExitStatistics } from '../vcpu/observe/statistics.js';
import { type ExitReport } from '../vcpu/observe/statistics.js';
import { reportAssists } from '../vcpu/assist/assist.js';
import type { BootPlan } from '../boot/request.js';
import type { VirtioReport } from '../devices/virtio/mmio-back.js';
import type { Board } from './board.js';
import type { Consoles } from './consoles.js';
import type { Machine } from './machine.js';
import type { Mark, Marks } from './marks.js';
import type { Outcome } from './outcome.js';

export interface NamedExits extends Omit<ExitReport, 'reasons' | 'ports' | 'mmio'> {
  readonly reasons: readonly { readonly reason: string; readonly count: number; readonly cycles: number }[];
  readonly ports: readonly (ExitReport['ports'][number] & { readonly device: string })[];
  readonly mmio: readonly (ExitReport['mmio'][number] & { readonly device: string })[];
}

export interface VmReport {
  /** Undefined while the machine lives. */
  readonly outcome: Outcome | undefined;
  readonly timeStamps: Readonly<Record<string, Mark>>;
  readonly kernel: { readonly format: string; readonly cmdline: string; readonly placed: BootPlan['placed'] };
  readonly memoryMiB: number;
  /** By vCPU. `cycles` are TSC cycles spent in user space for these exits. */
  readonly vcpus: readonly (NamedExits & { readonly assists: Readonly<Record<string, number>> })[];
  /** Ids of the quirks that were found on this host. */
  readonly quirks: readonly string[];
  readonly unclaimed: { readonly ports: number; readonly mmio: number };
  /** In the order of their windows. */
  readonly virtio: readonly VirtioReport[];
  /** Bytes of console output lost: `port` in the guest's UART, `reader` because nobody read the stream. */
  readonly consoleLost: { readonly port: number; readonly reader: number };
}

/** Names what the statistics count by number. */
export function reportVcpu(
  statistics: ExitStatistics,
  assists: SharedArrayBuffer,
  board: Board,
): VmReport['vcpus'][number] {
  const { reasons, ports, mmio, ...totals } = statistics.report();
  return {
    ...totals,
    reasons: reasons.map(({ reason, ...row }) => ({ reason: EXIT_NAMES[reason] ?? `exit reason ${reason}`, ...row })),
    ports: ports.map((row) => ({ ...row, device: board.pio.rowAt(row.port)?.name ?? 'nobody' })),
    mmio: mmio.map((row) => ({
      ...row,
      device: board.mmio.rowAt(row.address)?.name ?? 'nobody',
    })),
    assists: reportAssists(assists),
  };
}

/** What a report is made of. */
export interface ReportedMachine extends Machine {
  readonly kernel: VmReport['kernel'];
  readonly consoles: Consoles;
  readonly marks: Marks;
}

/** @param outcome undefined while the machine lives */
export function reportMachine(machine: ReportedMachine, outcome: Outcome | undefined): VmReport {
  const { board, kernel, memory, quirks, statistics, assists, marks, consoles, backs } = machine;
  const { port, output } = consoles.main;
  return {
    outcome,
    timeStamps: marks.all(),
    kernel,
    memoryMiB: memory.size / 2 ** 20,
    vcpus: statistics.map((cells, i) => reportVcpu(cells, assists[i] as SharedArrayBuffer, board)),
    quirks,
    unclaimed: { ports: board.unclaimed.ports.get(), mmio: board.unclaimed.mmio.get() },
    virtio: backs.map((back) => back.report()),
    consoleLost: { port: port.lostBytes, reader: output.dropped },
  };
}
