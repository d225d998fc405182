// The explorer's server over a machine on the real KVM: what the page is told, and what it may do. Guests of a few bytes.
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { createVm, explore, type Vm, type VmConfig } from '../../src/index.js';
import type { ServerMessage } from '../../src/web/protocol.js';
import { ExplorerClient } from '../support/explorer-client.js';
import { noKvm } from '../support/kvm.js';
import { isTraceOn, TRACE_LAYOUT } from '../../src/vcpu/observe/trace.js';

const LOAD = 0x10_0000;
/** Long mode: mov $'A',%al; mov $0x3f8,%dx; out %al,(%dx); incl 0x600; jmp to the out. */
const PRINTS = Buffer.from('b04166baf803eeff042500060000ebf6', 'hex');
const OUT = LOAD + 6;
const INCL = LOAD + 7;
const JMP = LOAD + 14;
/** Protected mode: prints what it reads on COM1. */
const ECHOES = Buffer.from('66bafd03eca80174fb66baf803eceeebef', 'hex');
/** Protected mode: mov $0x510,%dx; in %dx,%eax; jmp to the in. */
const READS_SLOWLY = Uint8Array.of(0x66, 0xba, 0x10, 0x05, 0xed, 0xeb, 0xfd);
/** jmp to itself: no exit, ever. */
const SPINS = Uint8Array.of(0xeb, 0xfe);
/** mov $3,%al; out %al,$0xf4 */
const ENDS = Uint8Array.of(0xb0, 0x03, 0xe6, 0xf4, 0xeb, 0xfe);
/** ud2 with an empty IDT. */
const TRIPLE_FAULT = Uint8Array.of(0x90, 0x0f, 0x0b);

let folder = '';

async function explored(
  bytes: Uint8Array,
  more: Partial<VmConfig> = {},
): Promise<AsyncDisposable & { readonly vm: Vm; readonly page: ExplorerClient; readonly url: string }> {
  const vm = await createVm({
    kernel: { name: 'explore', bytes },
    entry: 'long',
    cmdline: '',
    memoryMiB: 4,
    trace: true,
    ...more,
  });
  const explorer = await explore(vm, { name: 'a guest', snapshotFolder: join(folder, 'saved') });
  const page = await ExplorerClient.open(explorer.url);
  const close = async (): Promise<void> => {
    page[Symbol.dispose]();
    await vm.stop();
    await explorer.close();
  };
  return { vm, page, url: explorer.url, [Symbol.asyncDispose]: close };
}

const isPaused = (message: Extract<ServerMessage, { type: 'state' }>): boolean =>
  message.state === 'paused' && !message.isStepping;

/** @returns the registers once the machine stands still after `request` */
async function stopped(page: ExplorerClient, act: () => void): Promise<Extract<ServerMessage, { type: 'processors' }>> {
  const from = page.messages.length;
  act();
  return page.next('processors', () => true, from);
}

const ripOf = ({ states }: Extract<ServerMessage, { type: 'processors' }>): number => Number(states[0]?.regs['rip']);

describe.skipIf(noKvm)('explore', () => {
  beforeAll(() => void (folder = mkdtempSync(join(tmpdir(), 'microvisor-explore-'))));
  afterAll(() => rmSync(folder, { recursive: true }));

  it('shows exits by reason, and by port and register name, histograms, and the registers of every device', async () => {
    await using it = await explored(PRINTS);
    const { vm, page } = it;
    const hello = await page.next('hello', () => true, 0);
    expect(hello).toMatchObject({ mode: 'live', name: 'a guest', cpus: 1, memoryMiB: 4, isTraced: true });
    const com1 = hello.devices.find(({ name }) => name === 'COM1');
    expect(com1).toMatchObject({ space: 'port', base: 0x3f8, length: 8 });
    expect(com1?.registers).toContainEqual({ offset: 0, name: 'THR', size: 1, access: 'write' });
    expect(hello.fields).toContainEqual(expect.objectContaining({ device: 'COM1', name: 'LCR' }));
    await vm.start();
    const tick = await page.next('tick', ({ vcpus }) => (vcpus[0]?.entries ?? 0) > 100);
    expect(tick.vcpus[0]?.reasons[0]?.reason).toBe('KVM_EXIT_IO');
    expect(tick.vcpus[0]?.places).toEqual([expect.objectContaining({ space: 'port', address: 0x3f8, isWrite: true })]);
    const { rows } = await page.next('exits', (message) => message.rows.length > 10);
    expect(rows[0]).toMatchObject({
      vcpu: 0,
      access: { space: 'port', address: 0x3f8, isWrite: true, size: 1, count: 1, value: 0x41 },
    });
    expect(rows[0]?.served).toBeGreaterThan(0);
    const latencies = await page.next('latencies', (message) => message.rows.length > 0);
    expect(latencies.rows[0]?.name).toBe('out 0x3f8 COM1 THR');
    await page.until(() => page.printed.includes('AAAA'), 'what the guest printed');
  });

  it('while no page is open nobody looks, and a page that comes later sees what was printed', async () => {
    await using it = await explored(ECHOES, { entry: 'protected' });
    const { vm, page, url } = it;
    await vm.start();
    page.send({ type: 'input', text: 'typed' });
    await page.until(() => page.printed === 'typed', 'the echo');
    page[Symbol.dispose]();
    await page.closed;
    using later = await ExplorerClient.open(url);
    await later.until(() => later.printed === 'typed', 'what was printed before');
    expect(await later.next('state', () => true, 0)).toMatchObject({ state: 'running' });
  });

  it('"closed, by nothing": exits are traced while a page is open only, and a later page sees its own', async () => {
    await using it = await explored(PRINTS, { trace: 'explorer' });
    const { vm, page, url } = it;
    const ring = vm.vcpus[0]?.trace?.ring as SharedArrayBuffer;
    const recorded = (): number => Atomics.load(new Int32Array(ring), TRACE_LAYOUT.head);
    await vm.start();
    expect(await page.next('hello', () => true, 0)).toMatchObject({ isTraced: true });
    await page.next('exits', ({ rows }) => rows.length > 10);
    page[Symbol.dispose]();
    await vi.waitFor(() => expect(isTraceOn(ring)).toBe(false), 20_000);
    // A vCPU that has just seen it on may record one exit more.
    const goesOn = async (): Promise<void> => {
      const exits = exitsOf(vm);
      await vi.waitFor(() => expect(exitsOf(vm)).toBeGreaterThan(exits + 1000), 20_000);
    };
    await goesOn();
    const before = recorded();
    await goesOn();
    expect(recorded()).toBe(before);
    const opened = performance.now();
    using later = await ExplorerClient.open(url);
    const { rows } = await later.next('exits', (message) => message.rows.length > 10, 0);
    expect(recorded()).toBeGreaterThan(before);
    // Nothing of the time in between is taken for an exit's.
    const khz = (await later.next('hello', () => true, 0)).tscKhz;
    const longest = Math.max(...rows.map(({ entered, exited, served }) => exited - entered + served));
    expect(longest / khz).toBeLessThan(performance.now() - opened);
  });

  it('pauses, shows registers and code, and goes on', async () => {
    await using it = await explored(PRINTS);
    const { vm, page } = it;
    await vm.start();
    await page.next('tick', ({ vcpus }) => (vcpus[0]?.entries ?? 0) > 0);
    const processors = await stopped(page, () => page.send({ type: 'pause' }));
    expect(vm.state).toBe('paused');
    expect(processors.states[0]).toMatchObject({ mode: 'long', codeBits: 64, cpl: 0, paging: '4-level' });
    expect([OUT, INCL, JMP]).toContain(ripOf(processors));
    expect(processors.code[0]?.map(({ text }) => text)).toContain('jmp 0x0000000000100006');
    page.send({ type: 'resume' });
    await page.next('state', ({ state }) => state === 'running');
    const before = vm.memory.readU32(0x600);
    await page.until(() => vm.memory.readU32(0x600) !== before, 'the guest to go on');
  });

  it('shows the registers of a vCPU that is still at an exit when the machine is told to pause', async () => {
    const module = new URL('../support/devices/slow.js', import.meta.url);
    // The page looks twice before the vCPU has come to a stop.
    await using it = await explored(READS_SLOWLY, { entry: 'protected', devices: [{ module }] });
    const { vm, page } = it;
    await vm.start();
    await page.next('tick', ({ vcpus }) => (vcpus[0]?.entries ?? 0) > 0);
    const processors = await stopped(page, () => page.send({ type: 'pause' }));
    expect(processors.states[0]).toMatchObject({ mode: 'protected', codeBits: 32 });
  });

  it('"step one exit": serves one exit, completes it, and stands still behind it', async () => {
    await using it = await explored(PRINTS);
    const { vm, page } = it;
    await vm.start();
    await stopped(page, () => page.send({ type: 'pause' }));
    await stopped(page, () => page.send({ type: 'step-exit', vcpu: 0 }));
    for (let i = 0; i < 3; i++) {
      const before = { count: vm.memory.readU32(0x600), exits: exitsOf(vm) };
      const processors = await stopped(page, () => page.send({ type: 'step-exit', vcpu: 0 }));
      expect(ripOf(processors)).toBe(INCL);
      expect([vm.memory.readU32(0x600), exitsOf(vm)]).toEqual([before.count + 1, before.exits + 1]);
      expect(vm.state).toBe('paused');
    }
    const { rows } = await page.next('exits', (message) => message.rows.length > 0, 0);
    expect(rows.at(-1)?.access).toMatchObject({ address: 0x3f8, value: 0x41 });
  });

  it('"step one instruction": the next one, and no other', async () => {
    await using it = await explored(PRINTS);
    const { vm, page } = it;
    await vm.start();
    // A running machine is paused for it.
    await stopped(page, () => page.send({ type: 'step-exit', vcpu: 0 }));
    const seen: number[] = [];
    for (let i = 0; i < 3; i++)
      seen.push(ripOf(await stopped(page, () => page.send({ type: 'step-instruction', vcpu: 0 }))));
    expect(seen.slice(0, 2)).toEqual([JMP, OUT]);
    expect(seen[2]).toBe(INCL);
    page.send({ type: 'resume' });
    await page.next('state', ({ state }) => state === 'running');
    const before = vm.memory.readU32(0x600);
    // No step is left armed.
    await page.until(() => vm.memory.readU32(0x600) > before + 10, 'the guest to go on');
  });

  it('a step that comes to no exit is said to be under way, and pause ends it', async () => {
    await using it = await explored(SPINS);
    const { vm, page } = it;
    await vm.start();
    page.send({ type: 'step-exit', vcpu: 0 });
    await page.next('state', ({ isStepping }) => isStepping);
    page.send({ type: 'nmi', vcpu: 0 });
    expect(await page.next('notice')).toMatchObject({
      kind: 'problem',
      text: expect.stringContaining('busy') as string,
    });
    page.send({ type: 'pause' });
    await page.next('state', isPaused);
    expect(vm.state).toBe('paused');
    page.send({ type: 'resume' });
    await page.next('state', ({ state }) => state === 'running');
  });

  it('"pause ends it": also a step that has only been asked for, of a machine that is not paused for it yet', async () => {
    await using it = await explored(SPINS);
    const { vm, page } = it;
    await vm.start();
    for (let i = 0; i < 5; i++) {
      page.send({ type: 'step-exit', vcpu: 0 });
      page.send({ type: 'pause' });
      await page.next('state', isPaused);
      page.send({ type: 'resume' });
      await page.next('state', ({ state }) => state === 'running');
    }
  });

  it('"after what else is under way the machine stays paused": a resume, a snapshot, an NMI, and a pause behind each', async () => {
    await using it = await explored(PRINTS);
    const { vm, page } = it;
    const count = (): number => vm.memory.readU32(0x600);
    await vm.start();
    await page.until(() => count() > 0, 'the guest');
    for (const request of [{ type: 'resume' }, { type: 'snapshot' }, { type: 'nmi', vcpu: 0 }] as const) {
      if (request.type === 'resume') await stopped(page, () => page.send({ type: 'pause' }));
      const from = page.messages.length;
      page.send(request);
      page.send({ type: 'pause' });
      if (request.type === 'snapshot') await page.next('notice', ({ text }) => text.startsWith('Saved'), from);
      else await sleep(500);
      expect(vm.state).toBe('paused');
      const before = count();
      await sleep(50);
      expect([vm.state, count()]).toEqual(['paused', before]);
      // The guest has no handler for an NMI, and would end.
      if (request.type === 'nmi') break;
      page.send({ type: 'resume' });
      await page.until(() => count() > before, 'the guest to go on');
    }
  });

  it('one of two vCPUs steps while the other stands still', async () => {
    await using it = await explored(PRINTS, { cpus: 2 });
    const { vm, page } = it;
    await vm.start();
    await stopped(page, () => page.send({ type: 'step-exit', vcpu: 0 }));
    const processors = await stopped(page, () => page.send({ type: 'step-exit', vcpu: 0 }));
    expect(ripOf(processors)).toBe(INCL);
    expect(processors.states).toHaveLength(2);
    page.send({ type: 'step-exit', vcpu: 2 });
    expect(await page.next('notice')).toMatchObject({ kind: 'problem', text: 'There is no vCPU 2.' });
  });

  it('walks the page tables of an address', async () => {
    await using it = await explored(PRINTS);
    const { vm, page } = it;
    await vm.start();
    expect(await page.ask({ type: 'walk', vcpu: 0, address: '100006' })).toMatchObject({
      error: expect.stringContaining('Pause the machine first') as string,
    });
    await stopped(page, () => page.send({ type: 'pause' }));
    const answer = await page.ask({ type: 'walk', vcpu: 0, address: LOAD.toString(16) });
    expect(answer).toMatchObject({
      walk: { mode: '4-level', gpa: '0x100000', steps: [{ name: 'PML4E' }, { name: 'PDPTE' }, { name: 'PDE' }] },
    });
    expect(await page.ask({ type: 'walk', vcpu: 0, address: 'ffff800000000000' })).toMatchObject({
      walk: { fault: 'not present' },
    });
    expect(await page.ask({ type: 'walk', vcpu: 9, address: '0' })).toMatchObject({ error: 'There is no vCPU 9.' });
  });

  it('reads memory: physical while the guest runs, linear while it is paused, and none where none is', async () => {
    await using it = await explored(PRINTS);
    const { vm, page } = it;
    await vm.start();
    const ask = (space: 'physical' | 'linear', address: number | string, length = PRINTS.length) =>
      page.ask({
        type: 'memory',
        space,
        vcpu: 0,
        address: typeof address === 'string' ? address : address.toString(16),
        length,
      });
    const code = Buffer.from(PRINTS).toString('hex');
    expect(await ask('physical', LOAD)).toMatchObject({ bytes: code });
    expect(await ask('linear', LOAD)).toMatchObject({ error: expect.stringContaining('Pause') as string });
    await stopped(page, () => page.send({ type: 'pause' }));
    expect(await ask('linear', LOAD)).toMatchObject({ bytes: code });
    // RAM ends at 4 MiB.
    expect(await ask('physical', 0x40_0000 - 8, 16)).toMatchObject({ bytes: '' });
    expect(await ask('physical', 0x40_0000 - 16, 64)).toMatchObject({ bytes: '00'.repeat(16) });
    expect(await ask('physical', 'ffffffffffffffff')).toMatchObject({ bytes: '' });
    expect(await ask('linear', 'ffff800000000000')).toMatchObject({ bytes: '' });
  });

  it('sends an NMI, to a running guest as well', async () => {
    // An NMI with an empty IDT is a triple fault: the guest has noticed.
    await using it = await explored(SPINS);
    const { vm, page } = it;
    await vm.start();
    page.send({ type: 'nmi', vcpu: 0 });
    expect(await vm.outcome).toMatchObject({ kind: 'failed' });
    expect((await page.next('ended', () => true, 0)).report.isFailure).toBe(true);
  });

  it('saves a snapshot, and the guest goes on', async () => {
    await using it = await explored(PRINTS);
    const { vm, page } = it;
    await vm.start();
    page.send({ type: 'snapshot' });
    const { text } = await page.next('notice');
    expect(text).toBe(
      `Saved in ${join(folder, 'saved')}. It goes on with: microvisor restore ${join(folder, 'saved')}`,
    );
    expect(existsSync(join(folder, 'saved'))).toBe(true);
    expect(vm.state).toBe('running');
  });

  it.each([
    [ENDS, 'The guest wrote 3 to the debug-exit port', false],
    [TRIPLE_FAULT, 'triple fault', true],
  ])('says how the guest ended, and answers nothing about it any more', async (bytes, title, isFailure) => {
    await using it = await explored(bytes, { entry: 'protected' });
    const { vm, page, url } = it;
    await vm.start();
    const { report } = await page.next('ended', () => true, 0);
    expect(report.title.toLowerCase()).toContain(title.toLowerCase());
    expect(report.isFailure).toBe(isFailure);
    expect(report.details[0]).toMatch(/^Status \d+$/);
    if (isFailure) expect(report.details.join('\n')).toContain('cause');
    expect(await page.ask({ type: 'memory', space: 'physical', vcpu: 0, address: '0', length: 16 })).toMatchObject({
      error: 'The machine has ended, and its memory is gone.',
    });
    page.send({ type: 'resume' });
    expect(await page.next('notice')).toMatchObject({ kind: 'problem', text: 'The machine has ended.' });
    page.send({ type: 'input', text: 'x' });
    using later = await ExplorerClient.open(url);
    expect((await later.next('ended', () => true, 0)).report).toEqual(report);
  });

  it('is not there beside gdb: both would stop and step the machine', async () => {
    await using vm = await createVm({
      kernel: { name: 'explore', bytes: SPINS },
      entry: 'protected',
      cmdline: '',
      memoryMiB: 4,
      gdb: { listen: 0 },
    });
    await expect(explore(vm)).rejects.toThrow('create it without gdb');
  });

  it('says when the machine is not traced, and shows the rest', async () => {
    await using it = await explored(PRINTS, { trace: false });
    const { vm, page } = it;
    expect(await page.next('hello', () => true, 0)).toMatchObject({ isTraced: false });
    await vm.start();
    await page.next('tick', ({ vcpus }) => (vcpus[0]?.entries ?? 0) > 100);
    expect(page.messages.filter(({ type }) => type === 'exits' || type === 'latencies')).toEqual([]);
  });
});

function exitsOf(vm: Vm): number {
  const [vcpu] = vm.report().vcpus;
  return (vcpu?.entries ?? 0) - (vcpu?.interrupted ?? 0);
}
