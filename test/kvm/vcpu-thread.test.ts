// What becomes of a vCPU thread that fails: it says why, it is gone, and the process lives.
import { readdirSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ExitStatistics, GuestMemory, System } from '../../src/index.js';
import { VcpuThread, type VcpuEnd } from '../../src/machine/vcpu-thread.js';
import { allocateAssistCounters } from '../../src/vcpu/assist/assist.js';
import { LOCK_WORDS } from '../../src/vcpu/worker-protocol.js';
import { noKvm } from '../support/kvm.js';

/** out %al, $0x10; jmp . */
const OUT = Uint8Array.of(0xe6, 0x10, 0xeb, 0xfe);

async function runWith(board: 'throws' | 'hoards'): Promise<VcpuEnd> {
  using system = System.open();
  const memory = GuestMemory.create(0x1_0000);
  using vm = system.createVm();
  vm.setTssAddr(0xfffb_d000);
  vm.createIrqchip();
  vm.setUserMemoryRegion({ slot: 0, guestPhysAddr: 0, memory: memory.window(0, 0x1_0000) });
  memory.write(0x7c00, OUT);
  const data = {
    index: 0,
    cpus: 1,
    supportedCpuid: system.supportedCpuid(),
    quirks: [],
    statistics: ExitStatistics.allocate(),
    assists: allocateAssistCounters(),
    locks: new SharedArrayBuffer(LOCK_WORDS * 4),
    vmFd: vm.fd,
    memory: memory.share(),
    board,
  };
  const thread = new VcpuThread(data, undefined, new URL('../support/failing-boards.js', import.meta.url));
  await thread.ready;
  const segment = { base: 0n, selector: 0 };
  await thread.call('applyBootState', { regs: { rip: 0x7c00n }, sregs: { cs: segment } });
  thread.run();
  const end = await thread.ended;
  await thread.joined;
  return end;
}

describe.skipIf(noKvm)('"a worker that throws or runs out of memory ends the VM with a named reason"', () => {
  test('a handler that throws', async () => {
    expect(await runWith('throws')).toMatchObject({ type: 'crashed', message: 'the handler of port 0x10 is broken' });
  });

  test('"and leaves the process alive": out of memory, and no thread or descriptor is left', async () => {
    const threads = readdirSync('/proc/self/task').length;
    const end = await runWith('hoards');
    expect(end).toMatchObject({ type: 'crashed', code: 'ERR_WORKER_OUT_OF_MEMORY' });
    expect(readdirSync('/proc/self/task').length).toBeLessThanOrEqual(threads);
    const open = readdirSync('/proc/self/fd').length;
    await runWith('throws');
    expect(readdirSync('/proc/self/fd')).toHaveLength(open);
  });
});
