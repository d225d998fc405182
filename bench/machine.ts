// What stands beside every published figure: machine, kernel, Node, date.
import { readFileSync } from 'node:fs';
import { availableParallelism, loadavg, release } from 'node:os';

export interface MachineInfo {
  readonly processor: string;
  readonly processors: number;
  readonly kernel: string;
  readonly node: string;
  readonly date: string;
  /** One-minute load average before the benchmark: what else the machine did. */
  readonly load: number;
}

export function machineInfo(): MachineInfo {
  return {
    processor: /^model name\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? 'unknown',
    processors: availableParallelism(),
    kernel: release(),
    node: process.version,
    date: new Date().toISOString().slice(0, 10),
    load: loadavg()[0] ?? Number.NaN,
  };
}

export function formatMachine({ processor, processors, kernel, node, date, load }: MachineInfo): string {
  return `${date}, ${processor}, ${processors} processors, Linux ${kernel}, Node ${node}, load ${load.toFixed(1)}`;
}
