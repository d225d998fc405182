// What makes a breakpoint or watchpoint work on which host: planted int3, debug register, steps; and what it leaves.
// Intel SDM vol. 3B §17.2.5: lengths and alignment of breakpoints.
import { describe, expect, it } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.js';
import { Points, type DebugFacilities } from '../../../src/vcpu/gdb/points.js';

const ALL: DebugFacilities = { int3: true, realModeInt3: true, registers: 4, watchpoints: true, steps: true };
const STEPS_ONLY: DebugFacilities = { int3: false, realModeInt3: false, registers: 0, watchpoints: false, steps: true };
const REAL = { cr0: 0n, cr3: 0n, cr4: 0n, efer: 0n };
/** Paging with an empty page directory. */
const UNMAPPED = { cr0: 0x8000_0001n, cr3: 0x1000n, cr4: 0n, efer: 0n };

function points(facilities: DebugFacilities): { memory: GuestMemory; points: Points } {
  const memory = GuestMemory.create(65536);
  memory.fill(0, 4096, 0x90);
  memory.fill(0x1000, 4096);
  return { memory, points: new Points(memory, facilities) };
}

describe('points', () => {
  it('an int3 is planted and taken away; what is read meanwhile is the guest’s own', () => {
    const { memory, points: set } = points(ALL);
    expect(set.insert({ kind: 'software', address: 5n, length: 1 }, REAL)).toBe('ok');
    expect(memory.readU8(5)).toBe(0xcc);
    expect(set.withoutInt3(() => memory.readU8(5))).toBe(0x90);
    set.withoutInt3(() => memory.writeU8(5, 0xf4));
    expect(memory.readU8(5)).toBe(0xcc);
    set.remove({ kind: 'software', address: 5n, length: 1 });
    expect(memory.readU8(5)).toBe(0xf4);
  });

  it('two names of one byte do not make an int3 the guest’s own', () => {
    const { memory, points: set } = points(ALL);
    set.insert({ kind: 'software', address: 5n, length: 1 }, REAL);
    // Without paging bits 63:32 do not count.
    set.insert({ kind: 'software', address: 0x1_0000_0005n, length: 1 }, REAL);
    set.withoutInt3(() => undefined);
    set.remove({ kind: 'software', address: 5n, length: 1 });
    expect(memory.readU8(5)).toBe(0xcc);
    set.removeAll();
    expect(memory.readU8(5)).toBe(0x90);
  });

  it('a guest that wrote over an int3 keeps what it wrote', () => {
    const { memory, points: set } = points(ALL);
    set.insert({ kind: 'software', address: 5n, length: 1 }, REAL);
    memory.writeU8(5, 0x42);
    set.removeAll();
    expect(memory.readU8(5)).toBe(0x42);
  });

  it('a breakpoint at an address that is not mapped yet gets a debug register, while there are some', () => {
    const { points: set } = points({ ...ALL, registers: 1 });
    const at = (address: bigint) => set.insert({ kind: 'software', address, length: 1 }, UNMAPPED);
    expect([at(0x8000_0000n), at(0x8000_0001n)]).toEqual(['ok', 'no-memory']);
    expect(set.request().registers).toEqual([{ address: 0x8000_0000n }]);
  });

  it('watchpoints of any length are cut into what debug registers can watch; too many are refused', () => {
    const { points: set } = points(ALL);
    expect(set.insert({ kind: 'write', address: 0x1003n, length: 5 }, REAL)).toBe('ok');
    expect(set.request().registers).toEqual([
      { address: 0x1003n, kind: 'write', length: 1 },
      { address: 0x1004n, kind: 'write', length: 4 },
    ]);
    expect(set.insert({ kind: 'access', address: 0x2000n, length: 100_000 }, REAL)).toBe('full');
    expect(set.insert({ kind: 'read', address: 0x2000n, length: 4 }, REAL)).toBe('unsupported');
  });

  it('where the host hands nothing over, breakpoints and written bytes are looked for at each step', () => {
    const { memory, points: set } = points(STEPS_ONLY);
    expect(set.insert({ kind: 'software', address: 5n, length: 1 }, REAL)).toBe('ok');
    expect(set.insert({ kind: 'write', address: 8n, length: 2 }, REAL)).toBe('ok');
    expect(set.insert({ kind: 'access', address: 8n, length: 2 }, REAL)).toBe('unsupported');
    expect(memory.readU8(5)).toBe(0x90);
    expect(set.request().stepped).toEqual([
      { kind: 'execute', address: 5n, length: 1 },
      { kind: 'write', address: 8n, length: 2 },
    ]);
    const none = points({ ...STEPS_ONLY, steps: false }).points;
    expect(none.insert({ kind: 'software', address: 5n, length: 1 }, REAL)).toBe('unsupported');
  });

  it('where KVM’s emulator delivers int3 in real mode by itself, a debug register takes its place', () => {
    const { memory, points: set } = points({ ...ALL, realModeInt3: false });
    set.insert({ kind: 'software', address: 5n, length: 1 }, REAL);
    expect([memory.readU8(5), set.request().registers.length]).toEqual([0x90, 1]);
  });

  it('there is an end to them', () => {
    const { points: set } = points(ALL);
    const results = Array.from({ length: 300 }, (_, i) =>
      set.insert({ kind: 'software', address: BigInt(i), length: 1 }, REAL),
    );
    expect([results[255], results[256]]).toEqual(['ok', 'full']);
  });
});
