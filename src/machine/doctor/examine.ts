// Gathers what the boot doctor looks at from the parts of a machine, and lets it look. Loaded when a machine failed,
// stands still, or is asked about. Nothing here may change the machine.
import { e820Map } from '../../boot/e820.js';
import type { FileSource } from '../../boot/image-file.js';
import { initrdFacts } from '../../boot/initrd-facts.js';
import { readSymbols, type SymbolTable } from '../../boot/symbols.js';
import type { MmioBack } from '../../devices/virtio/mmio-back.js';
import type { GuestMemory } from '../../memory/guest-memory.js';
import type { ExitStatistics } from '../../vcpu/observe/statistics.js';
import { TraceReader } from '../../vcpu/observe/trace-reader.js';
import { isTraceOn } from '../../vcpu/observe/trace.js';
import type { Board } from '../board.js';
import { allConsoles, type Consoles } from '../consoles.js';
import { reportVcpu, type VmReport } from '../report.js';
import { diagnose, type Diagnosis } from './diagnosis.js';
import type { DoctorEvidence } from './evidence.js';

/** The files a machine was made of, for what they tell beside the running guest. */
export interface DoctorSources {
  readonly kernel: FileSource;
  readonly initrd: FileSource | undefined;
  /** Where the kernel's symbols are; default: in the kernel itself. */
  readonly symbols: FileSource | undefined;
}

export interface ExaminedMachine {
  readonly memory: GuestMemory;
  readonly kernel: VmReport['kernel'];
  readonly quirks: readonly string[];
  readonly board: Board;
  readonly consoles: Consoles;
  readonly backs: readonly MmioBack[];
  readonly statistics: readonly ExitStatistics[];
  readonly assists: readonly SharedArrayBuffer[];
  readonly traces: readonly (SharedArrayBuffer | undefined)[];
  readonly sources: DoctorSources;
}

/** How its vCPUs are. */
export type Symptoms = Pick<DoctorEvidence, 'failure' | 'vcpus' | 'stops' | 'unassisted'>;

export function examine(machine: ExaminedMachine, symptoms: Symptoms): Diagnosis {
  const { kernel, memory, board, sources, consoles, statistics, assists } = machine;
  const all = allConsoles(consoles);
  const evidence: DoctorEvidence = {
    ...symptoms,
    kernel: {
      name: 'path' in sources.kernel ? sources.kernel.path : sources.kernel.name,
      ...kernel,
      e820: e820Map(memory.regions.map(({ base, bytes }) => ({ base, size: bytes.length }))),
    },
    initrd: sources.initrd && initrdFacts(sources.initrd),
    hasInitrd: kernel.placed.some(({ name }) => name === 'initrd'),
    hasCommand: consoles.exec !== undefined && consoles.exec.task !== 'shell',
    virtio: machine.backs.map((back) => back.report()),
    memory,
    console: {
      lines: all.flatMap(({ lines }) => lines.recent),
      isSilent: all.every(({ lines }) => lines.isSilent),
      isFull: all.some(({ output }) => output.isStalling),
    },
    exits: statistics.map((cells, index) => reportVcpu(cells, assists[index] as SharedArrayBuffer, board)),
    quirks: machine.quirks,
  };
  return diagnose(evidence, {
    symbols: symbolsOf(sources),
    // Of one that is switched off the last exits are long ago.
    traces: machine.traces.map((ring) => (ring !== undefined && isTraceOn(ring) ? new TraceReader(ring).read() : [])),
    deviceAt: (space, address) => (space === 'port' ? board.pio : board.mmio).rowAt(address)?.name ?? 'nobody',
  });
}

/** A kernel without readable symbols has a diagnosis without names. */
function symbolsOf({ symbols, kernel }: DoctorSources): SymbolTable | undefined {
  try {
    return readSymbols(symbols ?? kernel);
  } catch {
    return undefined;
  }
}
