// What crosses between the explorer's page and its server, both ways; the one module that both sides share.
// Our own: WebSocket text frames of JSON, and binary frames for what the guest prints. The page's words are checked here.
import * as v from 'valibot';
import type { TraceDevice } from '../machine/trace/trace-format.js';
import type { DisassembledInstruction } from '../vcpu/disassemble.js';
import type { VcpuState } from '../vcpu/dump.js';

/** Longest message that the page sends, in bytes: a paste. */
export const REQUEST_BYTES_MAX = 16_384;
/** Most bytes of guest memory in one answer. */
export const MEMORY_BYTES_MAX = 4096;

/** Up to 16 hexadecimal digits. */
const address = v.pipe(v.string(), v.regex(/^[0-9a-f]{1,16}$/i));
const vcpu = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(31));
const id = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(Number.MAX_SAFE_INTEGER));
const milliseconds = v.pipe(v.number(), v.finite(), v.minValue(0));

const request = v.variant('type', [
  /** What was typed at the console. */
  v.strictObject({ type: v.literal('input'), text: v.pipe(v.string(), v.maxLength(REQUEST_BYTES_MAX)) }),
  v.strictObject({ type: v.picklist(['pause', 'resume', 'snapshot']) }),
  v.strictObject({ type: v.picklist(['step-exit', 'step-instruction', 'nmi']), vcpu }),
  /** Guest-physical memory at any time, memory at a linear address while the machine is paused. */
  v.strictObject({
    type: v.literal('memory'),
    id,
    space: v.picklist(['physical', 'linear']),
    vcpu,
    address,
    length: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(MEMORY_BYTES_MAX)),
  }),
  v.strictObject({ type: v.literal('walk'), id, vcpu, address }),
  /** Exits of a recording between two times since its start, or as many of them as are shown at once. */
  v.strictObject({ type: v.literal('span'), id, from: milliseconds, to: milliseconds }),
]);

/** What the page asks for. */
export type PageRequest = v.InferOutput<typeof request>;

/** @returns undefined for what no page of ours would send */
export function parseRequest(text: string): PageRequest | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  const result = v.safeParse(request, value);
  return result.success ? result.output : undefined;
}

export type MachineState = 'created' | 'running' | 'paused' | 'ending' | 'ended';

/** What the page is told first. */
export interface Hello {
  readonly type: 'hello';
  /** `recording`: a trace file; there is no machine behind it. */
  readonly mode: 'live' | 'recording';
  /** The kernel, or the file. */
  readonly name: string;
  readonly cmdline: string;
  readonly cpus: number;
  /** 0 where it is not known. */
  readonly memoryMiB: number;
  /** TSC cycles a millisecond: the unit of all times of exits. */
  readonly tscKhz: number;
  readonly devices: readonly TraceDevice[];
  /** The device registers, in the order of `Tick.fields`. */
  readonly fields: readonly { readonly device: string; readonly name: string; readonly doc: string }[];
  /** Why code at CPL 3 cannot be stepped on this host; undefined where all code can. */
  readonly stepLimit: string | undefined;
  /** Whether exits are traced: without, there is neither a timeline nor a histogram. */
  readonly isTraced: boolean;
  /** Where `snapshot` saves the machine. */
  readonly snapshotFolder: string;
}

/** Exits of one kind so far: how many, and the cycles that serving them took, as ExitStatistics estimates them. */
export interface Counted {
  readonly count: number;
  readonly cycles: number;
}
export interface PlaceCount extends Counted {
  readonly space: 'port' | 'mmio';
  readonly address: number;
  readonly isWrite: boolean;
}

/** The counters of one vCPU. */
export interface VcpuCounters {
  readonly entries: number;
  readonly interrupted: number;
  /** Processor time of its thread. */
  readonly cpuMs: number;
  readonly cyclesInside: number;
  readonly reasons: readonly (Counted & { readonly reason: string })[];
  readonly places: readonly PlaceCount[];
}

/** A look at the counters and device registers. */
export interface Tick {
  readonly type: 'tick';
  /** Milliseconds of the server's own clock. */
  readonly at: number;
  readonly vcpus: readonly VcpuCounters[];
  /** Index and value of the device registers that changed since the last tick. */
  readonly fields: readonly (readonly [index: number, value: number])[];
}

/** One exit of the trace. Times are cycles; `served` is -1 where the next entry was not seen. */
export interface ExitRow {
  readonly vcpu: number;
  readonly entered: number;
  readonly exited: number;
  readonly served: number;
  readonly reason: number;
  readonly access?: {
    readonly space: 'port' | 'mmio' | 'msr';
    readonly address: number;
    readonly isWrite: boolean;
    readonly size: number;
    readonly count: number;
    readonly value: number;
  };
}

/** How long the exits of one kind took to be served: counts by power of two of nanoseconds. */
export interface LatencyRow {
  readonly name: string;
  readonly count: number;
  /** Index i: times from 2^i to 2^(i+1) ns; index 0 also holds shorter ones. */
  readonly buckets: readonly number[];
}

/** What a person reads of a machine's end. */
export interface EndReport {
  readonly title: string;
  readonly isFailure: boolean;
  /** Lines, of the boot doctor for one. */
  readonly details: readonly string[];
}

/** A page walk as the page shows it. */
export interface WalkAnswer {
  readonly mode: string;
  readonly steps: readonly { readonly name: string; readonly gpa: string; readonly entry: string }[];
  readonly gpa: string | undefined;
  readonly pageSize: number;
  readonly rights: string;
  readonly fault: string | undefined;
}

/** A recording, summed up. Times are milliseconds. */
export interface RecordingSummary {
  readonly exits: number;
  readonly lost: number;
  readonly durationMs: number;
  readonly insideMs: number;
  readonly outsideMs: number;
  readonly kinds: readonly {
    readonly name: string;
    readonly count: number;
    readonly totalMs: number;
    readonly longestMs: number;
  }[];
  readonly devices: readonly {
    readonly name: string;
    readonly reads: number;
    readonly writes: number;
    readonly bytes: number;
    readonly firstMs: number;
    readonly lastMs: number;
  }[];
  /** By vCPU: exits in each of the equal parts of the time. */
  readonly timeline: readonly (readonly number[])[];
}

export type Answer =
  | { readonly error: string }
  /** Hexadecimal, two digits a byte; shorter than asked for where memory ends. */
  | { readonly bytes: string }
  | { readonly walk: WalkAnswer }
  | { readonly exits: readonly ExitRow[]; readonly isWhole: boolean };

/** What the server says. */
export type ServerMessage =
  | Hello
  | Tick
  | { readonly type: 'state'; readonly state: MachineState; readonly isStepping: boolean }
  | { readonly type: 'exits'; readonly rows: readonly ExitRow[]; readonly lost: number }
  | { readonly type: 'latencies'; readonly rows: readonly LatencyRow[] }
  /** By vCPU, while the machine is paused. */
  | {
      readonly type: 'processors';
      readonly states: readonly VcpuState[];
      readonly code: readonly (readonly DisassembledInstruction[])[];
    }
  | { readonly type: 'recording'; readonly summary: RecordingSummary }
  | { readonly type: 'notice'; readonly kind: 'done' | 'problem'; readonly text: string }
  | ({ readonly type: 'answer'; readonly id: number } & Answer)
  | { readonly type: 'ended'; readonly report: EndReport };
