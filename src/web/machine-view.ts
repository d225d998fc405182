// What the page sees of a running machine, read from shared memory on the owner's thread: no vCPU is asked or told anything.
// Only registers come from the vCPUs themselves, and only while they are parked.
import type { GuestMemory } from '../memory/guest-memory.js';
import type { InspectedMachine } from '../machine/inspected-machine.js';
import type { Vm } from '../machine/vm.js';
import { disassemble, hex } from '../vcpu/disassemble.js';
import type { VcpuState } from '../vcpu/dump.js';
import { readLinear, walk } from '../vcpu/paging.js';
import { TraceReader } from '../vcpu/observe/trace-reader.js';
import { isTraceOn } from '../vcpu/observe/trace.js';
import { Latencies } from './latencies.js';
import type { Answer, ExitRow, PageRequest, ServerMessage, VcpuCounters } from './protocol.js';

/** Exits that the page is shown of each look; all of them count in the histograms. */
const ROWS_MAX = 500;
const CODE_BYTES = 160;
const INSTRUCTIONS = 24;
const ROW_BYTES = 16;

type Fields = readonly (readonly [index: number, value: number])[];

export class MachineView {
  readonly latencies: Latencies;
  readonly #vm: Vm;
  readonly #inspected: InspectedMachine;
  readonly #seen: Float64Array;
  #readers: readonly TraceReader[];
  #lost: number[] = [];

  constructor(vm: Vm, inspected: InspectedMachine) {
    this.#vm = vm;
    this.#inspected = inspected;
    this.#seen = new Float64Array(inspected.fields.length).fill(-1);
    this.#readers = this.#newReaders();
    this.latencies = new Latencies(vm.deviceMap(), () => this.tscKhz);
  }

  get isTraced(): boolean {
    return this.#readers.length > 0;
  }

  get tscKhz(): number {
    return this.#readers[0]?.tscKhz ?? 1;
  }

  /** Somebody looks again: what the rings have forgotten since is no loss. */
  lookAgain(): void {
    this.#readers = this.#newReaders();
    this.stoodStill();
    this.#inspected.watchExits(true);
  }

  /** Nobody looks any more. */
  lookAway(): void {
    this.#inspected.watchExits(false);
  }

  /** The machine stood still: how long it did is not the time of an exit. */
  stoodStill(): void {
    for (const { index } of this.#vm.vcpus) this.latencies.gap(index);
  }

  counters(): readonly VcpuCounters[] {
    return this.#vm.report().vcpus.map((vcpu, index) => ({
      entries: vcpu.entries,
      interrupted: vcpu.interrupted,
      cpuMs: (this.#vm.vcpus[index]?.cpuNanoseconds ?? 0) / 1e6,
      cyclesInside: vcpu.cyclesInside,
      reasons: vcpu.reasons.map(({ reason, count, cycles }) => ({ reason, count, cycles })),
      places: [
        ...vcpu.ports.map(({ port, direction, count, cycles }) => ({
          space: 'port' as const,
          address: port,
          isWrite: direction === 'out',
          count,
          cycles,
        })),
        ...vcpu.mmio.map(({ address, direction, count, cycles }) => ({
          space: 'mmio' as const,
          address,
          isWrite: direction === 'write',
          count,
          cycles,
        })),
      ],
    }));
  }

  allFields(): Fields {
    return this.#inspected.fields.map(({ field }, index) => [index, field.get()]);
  }

  changedFields(): Fields {
    return this.allFields().filter(([index, value]) => {
      const isChanged = this.#seen[index] !== value;
      this.#seen[index] = value;
      return isChanged;
    });
  }

  /** The exits since the last look, the newest of them in rows, in the order of their times. */
  exits(): Extract<ServerMessage, { type: 'exits' }> {
    const rows: ExitRow[] = [];
    let lost = 0;
    for (const [vcpu, reader] of this.#readers.entries()) {
      const found = reader.read();
      const gone = reader.lost - (this.#lost[vcpu] ?? 0);
      this.#lost[vcpu] = reader.lost;
      lost += gone;
      if (gone > 0) this.latencies.gap(vcpu);
      for (const exit of found) {
        const served = this.latencies.add(vcpu, exit);
        if (served !== undefined) rows.push(served);
      }
      // Only the newest are shown, and they are in order within each vCPU.
      if (rows.length > 4 * ROWS_MAX) rows.splice(0, rows.length - ROWS_MAX);
    }
    const newest = rows.toSorted((a, b) => a.exited - b.exited).slice(-ROWS_MAX);
    return { type: 'exits', rows: [...newest, ...this.latencies.unserved()], lost };
  }

  /** Of a paused machine. */
  async processors(): Promise<Extract<ServerMessage, { type: 'processors' }>> {
    const states = await Promise.all(this.#vm.vcpus.map((vcpu) => vcpu.call('captureState')));
    const code = await Promise.all(states.map((state, vcpu) => this.#code(vcpu, state)));
    return { type: 'processors', states, code };
  }

  async answer(request: Extract<PageRequest, { type: 'memory' | 'walk' | 'span' }>): Promise<Answer> {
    const { state } = this.#vm;
    if (request.type === 'span') return { error: 'There is no recording here.' };
    if (state === 'ending' || state === 'ended') return { error: 'The machine has ended, and its memory is gone.' };
    const linear = BigInt(`0x${request.address}`);
    if (request.type === 'memory' && request.space === 'physical')
      return { bytes: hexOf(physical(this.#vm.memory, linear, request.length)) };
    if (state !== 'paused') return { error: 'Pause the machine first: its page tables are those of a register.' };
    const sregs = await this.#vm.vcpus[request.vcpu]?.call('getSregs');
    if (sregs === undefined) return { error: `There is no vCPU ${request.vcpu}.` };
    if (request.type === 'memory') return { bytes: hexOf(readLinear(this.#vm.memory, sregs, linear, request.length)) };
    const { mode, steps, gpa, pageSize, writeable, user, executable, fault } = walk(this.#vm.memory, sregs, linear);
    return {
      walk: {
        mode,
        steps: steps.map(({ name, entryGpa, entry }) => ({ name, gpa: hex(entryGpa), entry: hex(entry) })),
        gpa: gpa === undefined ? undefined : hex(gpa),
        pageSize,
        rights: `${user ? 'user' : 'supervisor'}, ${writeable ? 'writeable' : 'read-only'}, ${executable ? 'executable' : 'no execute'}`,
        fault,
      },
    };
  }

  async #code(vcpu: number, { code, codeBits, regs }: VcpuState): Promise<ReturnType<typeof disassemble>> {
    const sregs = await this.#vm.vcpus[vcpu]?.call('getSregs');
    if (sregs === undefined) return [];
    const bytes = readLinear(this.#vm.memory, sregs, BigInt(code.linear), CODE_BYTES);
    return disassemble(bytes, codeBits, BigInt(regs['rip'] ?? '0'), INSTRUCTIONS);
  }

  // Readers of our own: a recording empties those of the vCPUs' handles.
  #newReaders(): readonly TraceReader[] {
    this.#lost = [];
    const rings = this.#vm.vcpus.flatMap(({ trace }) => trace?.ring ?? []);
    return rings.map((ring) => {
      const reader = new TraceReader(ring);
      // What a page before this one saw has nothing to do with what comes.
      if (!isTraceOn(ring)) reader.read();
      return reader;
    });
  }
}

/** As many of the bytes from there on as are RAM, in rows. */
function physical(memory: GuestMemory, gpa: bigint, length: number): Uint8Array {
  const from = Number(gpa);
  let has = 0;
  while (has < length && memory.contains(from + has, Math.min(ROW_BYTES, length - has))) has += ROW_BYTES;
  has = Math.min(has, length);
  return has === 0 ? new Uint8Array() : memory.read(from, has);
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex');
}
