// The packets of the GDB remote serial protocol against a machine that is made up: replies, and every bad packet.
// GDB manual, appendix "Remote Serial Protocol", Packets; "Target Descriptions".
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Regs, Sregs } from '../../../src/kvm/registers.js';
import { GdbSession } from '../../../src/vcpu/gdb/commands.js';
import type { RegisterState } from '../../../src/vcpu/gdb/registers.js';
import {
  GdbRefusal,
  type GdbStop,
  type GdbTarget,
  type Point,
  type ThreadAction,
} from '../../../src/vcpu/gdb/target.js';

const GENERAL = 'rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags'.split(' ');

function stateOf(): RegisterState {
  const regs = Object.fromEntries(GENERAL.map((name, index) => [name, BigInt(index + 1)])) as Regs;
  const segment = { base: 0n, selector: 8 };
  const names = ['cs', 'ss', 'ds', 'es', 'fs', 'gs'];
  const sregs = {
    ...Object.fromEntries(names.map((name) => [name, { ...segment }])),
    ...Object.fromEntries(['cr0', 'cr2', 'cr3', 'cr4', 'cr8', 'efer'].map((name) => [name, 0n])),
  } as unknown as Sregs;
  return { regs, sregs, fx: new Uint8Array(512) };
}

class FakeTarget implements GdbTarget {
  readonly threads = 2;
  state = stateOf();
  stop: GdbStop = { kind: 'stepped', thread: 1 };
  readonly resumed: [number, ThreadAction][][] = [];
  readonly memory = new Uint8Array(64);
  readonly points: Point[] = [];
  isKilled = false;
  interrupt(): void {}
  async resume(actions: ReadonlyMap<number, ThreadAction>): Promise<GdbStop> {
    this.resumed.push([...actions]);
    return this.stop;
  }
  async readRegisters(): Promise<RegisterState> {
    return this.state;
  }
  async writeRegisters(_thread: number, state: RegisterState): Promise<void> {
    this.state = state;
  }
  async readMemory(_thread: number, address: bigint, length: number): Promise<Uint8Array> {
    return this.memory.subarray(Number(address), Number(address) + length);
  }
  async writeMemory(_thread: number, address: bigint, bytes: Uint8Array): Promise<boolean> {
    if (address + BigInt(bytes.length) > 64n) return false;
    this.memory.set(bytes, Number(address));
    return true;
  }
  async insert(_thread: number, point: Point): Promise<'ok' | 'full' | 'unsupported'> {
    this.points.push(point);
    return point.kind === 'read' ? 'unsupported' : this.points.length > 2 ? 'full' : 'ok';
  }
  remove(): void {
    this.points.pop();
  }
  async monitor(_thread: number, text: string): Promise<string> {
    return `you said ${text}`;
  }
  kill(): void {
    this.isKilled = true;
  }
}

function session(): { target: FakeTarget; ask: (packet: string) => Promise<string> } {
  const target = new FakeTarget();
  const session = new GdbSession(target);
  return { target, ask: async (packet) => (await session.answer(packet)).data };
}

describe('commands', () => {
  it('"an empty response indicates the packet is not supported"', async () => {
    const { ask } = session();
    for (const packet of ['vMustReplyEmpty', 'qTStatus', '', 'Q', 'Hx1', 'R00', 'vAttach;1'])
      expect(await ask(packet)).toBe('');
  });

  it('registers go in gdb’s order, little-endian: rsp is its eighth, rip its seventeenth', async () => {
    const { ask, target } = session();
    const all = await ask('g');
    expect(all.slice(0, 16)).toBe('0100000000000000');
    expect(all.slice(7 * 16, 8 * 16)).toBe('0800000000000000');
    expect(await ask('p10')).toBe('1100000000000000');
    expect(await ask('P10=efbeadde00000000')).toBe('OK');
    expect(target.state.regs.rip).toBe(0xdead_beefn);
    expect(await ask(`G${all}`)).toBe('OK');
    expect(target.state.regs.rip).toBe(0x11n);
    for (const bad of ['pffff', 'pzz', 'P10=12', 'P10', 'Pff=00', 'G00', `G${all}00`, `G${all.replace('01', 'zz')}`])
      expect(await ask(bad)).toBe('E16');
  });

  it('the target description has a size for each register of a `g` packet', async () => {
    const { ask } = session();
    let xml = '';
    for (let part = 'm'; part.startsWith('m');) {
      part = await ask(`qXfer:features:read:target.xml:${xml.length.toString(16)},100`);
      xml += part.slice(1);
    }
    const bits = [...xml.matchAll(/bitsize="(\d+)"/g)].reduce((sum, [, size]) => sum + Number(size), 0);
    expect((await ask('g')).length).toBe(bits / 4);
    expect(xml).toContain('<architecture>i386:x86-64</architecture>');
  });

  it('memory: as much as there is, and errors for what is not', async () => {
    const { ask, target } = session();
    expect(await ask('M3e,2:abcd')).toBe('OK');
    expect(await ask('m3e,10')).toBe('abcd');
    expect(await ask('X0,3:\x00#$')).toBe('OK');
    expect(target.memory.slice(0, 3)).toEqual(Uint8Array.of(0, 0x23, 0x24));
    expect(await ask('m40,1')).toBe('E0e');
    expect(await ask('M3f,2:0000')).toBe('E0e');
    for (const bad of [
      'm',
      'm0',
      'm0,',
      'mx,1',
      'm0,123456789',
      'M0,2:00',
      'M0,1:0',
      'M0,1',
      'X0,9:a',
      'm11112222333344445,1',
    ])
      expect(await ask(bad)).toBe('E16');
  });

  it('vCont: for each thread "the leftmost action with a matching thread-id is applied"', async () => {
    const { ask, target } = session();
    expect(await ask('vCont;s:2;c')).toBe('T05thread:2;');
    expect(await ask('vCont;c')).toBe('T05thread:2;');
    expect(await ask('vCont;S05:1')).toBe('T05thread:2;');
    expect(target.resumed).toEqual([
      [
        [1, 'step'],
        [0, 'continue'],
      ],
      [
        [0, 'continue'],
        [1, 'continue'],
      ],
      [[0, 'step']],
    ]);
    for (const bad of ['vCont;', 'vCont;x', 'vCont;c:3', 'vCont;c:0', 'vCont;s:zz']) expect(await ask(bad)).toBe('E16');
  });

  it('stop replies say what stopped which thread; the end is W with the status', async () => {
    const { ask, target } = session();
    target.stop = { kind: 'watchpoint', thread: 0, address: 0x1234n, access: 'access' };
    expect(await ask('vCont;c')).toBe('T05thread:1;awatch:1234;');
    target.stop = { kind: 'ended', status: 125 };
    expect(await ask('c')).toBe('W7d');
    const before = target.resumed.length;
    expect(await ask('c')).toBe('W7d');
    expect(target.resumed.length).toBe(before);
  });

  it('a step that the host cannot make is refused with the reason', async () => {
    const { ask, target } = session();
    target.resume = () => Promise.reject(new GdbRefusal('not here'));
    expect(await ask('s')).toBe('E.not here');
  });

  it('breakpoints: kinds by their numbers, and what is full or missing is told apart', async () => {
    const { ask, target } = session();
    expect(await ask('Z0,ffffffff81000000,1')).toBe('OK');
    expect(target.points[0]).toEqual({ kind: 'software', address: 0xffff_ffff_8100_0000n, length: 1 });
    expect(await ask('Z3,0,4')).toBe('');
    expect(await ask('Z1,0,1')).toBe('E1c');
    for (const bad of ['Z5,0,1', 'Z', 'Z0', 'Z0,0', 'z9,0,1', 'Z00,0,1']) expect(await ask(bad)).toBe('E16');
  });

  it('no packet at all makes it throw', async () => {
    const { ask } = session();
    const words = [
      '',
      'qXfer:features:read:target.xml:',
      'vCont;',
      'm',
      'M',
      'X',
      'Z',
      'z',
      'P',
      'G',
      'qRcmd,',
      'Hg',
      'T',
    ];
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...words), fc.string({ maxLength: 40 }), async (word, rest) => {
        expect(typeof (await ask(word + rest))).toBe('string');
      }),
      { numRuns: 500 },
    );
  });
});
