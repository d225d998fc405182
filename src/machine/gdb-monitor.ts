// The `monitor` commands of gdb: what a machine can tell beside registers and memory. Rows of name and answer.
// GDB manual, "Monitor" (qRcmd).
import type { GuestMemory } from '../memory/guest-memory.js';
import { hex, hexBytes } from '../vcpu/disassemble.js';
import { formatState } from '../vcpu/dump.js';
import type { DebugFacilities } from '../vcpu/gdb/points.js';
import { walk } from '../vcpu/paging.js';
import type { VcpuThread } from './vcpu-thread.js';

export interface MonitoredVcpu {
  readonly thread: VcpuThread;
  readonly memory: GuestMemory;
  readonly facilities: DebugFacilities;
}

interface MonitorRow {
  readonly usage: string;
  readonly help: string;
  /** Undefined when the words are not what the usage says. */
  readonly answer: (words: readonly string[], vcpu: MonitoredVcpu) => string | undefined | Promise<string | undefined>;
}

const BYTES_A_LINE = 16;
const BYTES_MAX = 1024;

const MONITOR_ROWS: Readonly<Record<string, MonitorRow>> = {
  help: {
    usage: 'help',
    help: 'this list',
    answer: () =>
      `${Object.values(MONITOR_ROWS)
        .map(({ usage, help }) => `${usage.padEnd(20)} ${help}`)
        .join('\n')}\n`,
  },
  host: {
    usage: 'host',
    help: "what this host's KVM gives a debugger",
    answer: (_, { facilities }) => `${describeFacilities(facilities).join('\n')}\n`,
  },
  state: {
    usage: 'state',
    help: 'the whole state of the vCPU: mode, segments, tables, code, page walk of RIP',
    answer: async (_, { thread }) => `${formatState(await thread.call('captureState')).join('\n')}\n`,
  },
  walk: {
    usage: 'walk ADDRESS',
    help: 'the page walk of a linear address',
    async answer([text], { thread, memory }) {
      const address = addressOf(text);
      if (address === undefined) return undefined;
      const { mode, steps, gpa, fault } = walk(memory, await thread.call('getSregs'), address);
      const lines = steps.map(({ name, entryGpa, entry }) => `${name} at ${hex(entryGpa)}: ${hex(entry)}`);
      return `paging ${mode}\n${lines.map((line) => `${line}\n`).join('')}${gpa === undefined ? fault : `GPA ${hex(gpa)}`}\n`;
    },
  },
  phys: {
    usage: 'phys GPA [BYTES]',
    help: `guest-physical memory, ${BYTES_A_LINE} bytes when nothing else is said`,
    answer([text, count = String(BYTES_A_LINE)], { memory }) {
      const gpa = addressOf(text);
      const length = Number(count);
      if (gpa === undefined || !Number.isInteger(length) || length < 1 || length > BYTES_MAX) return undefined;
      if (!memory.contains(Number(gpa), length)) return `no guest RAM at ${hex(gpa)} for ${length} bytes\n`;
      const bytes = memory.read(Number(gpa), length);
      const lines: string[] = [];
      for (let at = 0; at < length; at += BYTES_A_LINE)
        lines.push(`${hex(gpa + BigInt(at))}: ${hexBytes(bytes.subarray(at, at + BYTES_A_LINE))}`);
      return `${lines.join('\n')}\n`;
    },
  },
};

export async function answerMonitor(text: string, vcpu: MonitoredVcpu): Promise<string> {
  const [name = '', ...words] = text.split(/\s+/);
  const row = Object.hasOwn(MONITOR_ROWS, name) ? MONITOR_ROWS[name] : undefined;
  if (row === undefined) return `there is no such command; monitor help lists those that exist\n`;
  return (await row.answer(words, vcpu)) ?? `usage: monitor ${row.usage}\n`;
}

/** What a person at gdb should know of this host, one line each. */
export function describeFacilities({ int3, registers, watchpoints, steps }: DebugFacilities): string[] {
  const slowly = 'by stepping the guest from one instruction to the next, which is very slow';
  return [
    `break: ${int3 ? 'int3 in guest memory' : registers > 0 ? 'debug registers' : slowly}`,
    `hbreak: ${registers > 0 ? `${registers} debug registers` : steps ? slowly : 'not on this host'}`,
    `watch: ${watchpoints ? 'debug registers' : steps ? slowly : 'not on this host; set can-use-hw-watchpoints 0 makes gdb step'}`,
    `stepi: ${steps ? 'everywhere' : 'at CPL 0 only; programs at CPL 3 cannot be stepped, and breakpoints in them are not seen'}`,
  ];
}

function addressOf(text: string | undefined): bigint | undefined {
  return text !== undefined && /^(0x[0-9a-f]{1,16}|[0-9]{1,19})$/i.test(text) ? BigInt(text) : undefined;
}
