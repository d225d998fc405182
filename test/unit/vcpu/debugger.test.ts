// The debugger's half on a vCPU's thread, with a made-up vCPU: what no host here can show, watchpoints by debug registers.
// Intel SDM vol. 3B §17.2.3 (DR6): B0 to B3 say which register was hit, BS that the trap was a single step.
import { describe, expect, it } from 'vitest';
import type { VcpuFd } from '../../../src/kvm/vcpu-fd.js';
import { GuestMemory } from '../../../src/memory/guest-memory.js';
import { Debugger, NO_DEBUGGER } from '../../../src/vcpu/debugger.js';
import { GuestDebug } from '../../../src/vcpu/guest-debug.js';
import type { VcpuStop } from '../../../src/vcpu/stop.js';

const DR6_B0 = 1n;
const DR6_B1 = 2n;
const DR6_BS = 1n << 14n;

const trap = (dr6: bigint): VcpuStop => ({ kind: 'debug', exception: 1, pc: 0x1000n, dr6 });

function debugged(): { debug: Debugger; guestDebug: GuestDebug; injected: number[] } {
  const injected: number[] = [];
  const fd = {
    id: 0,
    setGuestDebug: () => undefined,
    setDebugRegs: () => undefined,
    setVcpuEvents: ({ exception }: { exception: { nr: number } }) => void injected.push(exception.nr),
  } as unknown as VcpuFd;
  const guestDebug = new GuestDebug(fd);
  return { debug: new Debugger(fd, GuestMemory.create(65536), guestDebug), guestDebug, injected };
}

describe('Debugger', () => {
  it('a hit register is its breakpoint or watchpoint, whoever else has registers before it', () => {
    const { debug, guestDebug } = debugged();
    guestDebug.request('syscall-remedy', { breakpoints: [{ address: 0x9000n }] });
    debug.set({
      ...NO_DEBUGGER,
      isAttached: true,
      registers: [{ address: 0x2000n, kind: 'write', length: 4 }, { address: 0x3000n }],
    });
    expect(debug.claim(trap(DR6_B1))).toEqual({ kind: 'watchpoint', address: 0x2000n, access: 'write' });
    expect(debug.claim(trap(DR6_B1 << 1n))).toEqual({ kind: 'hardware-breakpoint' });
  });

  it('a trap that is not the debugger’s is given to the guest as #DB', () => {
    const { debug, injected } = debugged();
    debug.set({ ...NO_DEBUGGER, isAttached: true });
    expect(debug.claim(trap(DR6_BS))).toBe('go-on');
    expect(debug.claim(trap(DR6_B0))).toBe('go-on');
    expect(injected).toEqual([1, 1]);
  });

  it('without a debugger nothing is claimed: a failure ends the machine at once', () => {
    const { debug } = debugged();
    expect(debug.claim({ kind: 'shutdown' })).toBeUndefined();
    expect(debug.claim(trap(DR6_B0))).toBeUndefined();
    debug.set({ ...NO_DEBUGGER, isAttached: true });
    expect(debug.claim({ kind: 'shutdown' })).toEqual({ kind: 'failed', stop: { kind: 'shutdown' } });
    expect(debug.claim({ kind: 'kicked' })).toBeUndefined();
  });
});
