// What the command says of a guest that fails or is watched: the boot doctor, recorded traces, the door for gdb.
// The library's side is in doctor.test.ts, trace.test.ts and gdb.test.ts.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { microvisor, start } from '../support/cli.js';
import { servePage } from '../../src/web/page-server.js';
import { ExplorerClient } from '../support/explorer-client.js';
import { gdbClient } from '../support/gdb-client.js';
import { debugExit, SPIN, TRIPLE_FAULT } from '../support/flat-guests.js';
import { noKvm } from '../support/kvm.js';

const directory = mkdtempSync(join(tmpdir(), 'microvisor-debug-'));
afterAll(() => rmSync(directory, { recursive: true }));

function file(name: string, bytes: Uint8Array): string {
  const path = join(directory, name);
  writeFileSync(path, bytes);
  return path;
}

const flat = (bytes: Uint8Array, entry: 'real' | 'protected', ...more: readonly string[]): readonly string[] => [
  'run',
  '--kernel',
  file('guest.bin', bytes),
  '--entry',
  entry,
  '--console',
  'null',
  ...more,
];

interface Report {
  readonly outcome: { readonly diagnosis: { readonly causes: readonly { readonly id: string }[] } };
}

describe.skipIf(noKvm)('microvisor run, for those who look for a fault', () => {
  it('"CLI: on stderr and in --report": the likely cause of a failure, and the last exits', async () => {
    const report = join(directory, 'r.json');
    const { status, stderr } = await microvisor(flat(TRIPLE_FAULT, 'protected', '--report', report));
    expect(status).toBe(125);
    expect(stderr).toMatch(/^likely cause: an exception came before .* \[exception-without-idt\]$/m);
    expect(stderr).toMatch(/^ {6}remedy: load an IDT/m);
    expect(stderr).toMatch(/its last exits, the newest at the end:\n(?: {2}KVM_EXIT_\w+\n)* {2}KVM_EXIT_SHUTDOWN\n/);
    expect((JSON.parse(readFileSync(report, 'utf8')) as Report).outcome.diagnosis.causes[0]?.id).toBe(
      'exception-without-idt',
    );
  });

  it('--symbols: a file that cannot be read is refused before the VM starts', async () => {
    const { status, stderr } = await microvisor(flat(SPIN, 'real', '--symbols', join(directory, 'nothing')));
    expect([status, stderr]).toEqual([2, expect.stringMatching(/nothing: .*there is no such file/)]);
  });

  it('--trace records, and microvisor trace says what: as a table, as JSON, and for other viewers', async () => {
    const trace = join(directory, 'a.trace');
    const chrome = join(directory, 'a.json');
    expect((await microvisor(flat(debugExit(1), 'real', '--trace', trace))).status).toBe(3);
    const table = (await microvisor(['trace', trace])).stdout.toString();
    expect(table).toMatch(/1 vCPU: \d+ exits in/);
    expect(table).toMatch(/^out 0xf4 debug-exit +1 /m);
    const summary = JSON.parse((await microvisor(['trace', trace, '--json'])).stdout.toString()) as { exits: number };
    expect(summary.exits).toBeGreaterThan(0);
    expect((await microvisor(['trace', trace, '--chrome', chrome])).status).toBe(0);
    expect(readFileSync(chrome, 'utf8')).toContain('"name":"out 0xf4 debug-exit"');
    const { status, stderr } = await microvisor(['trace', chrome]);
    expect([status, stderr]).toEqual([2, expect.stringMatching(/is no trace; record one/)]);
  });

  it('--gdb SOCKET --wait: says where gdb finds the machine, and waits', async () => {
    const socket = join(directory, 'gdb.sock');
    const run = start(flat(debugExit(1), 'real', '--gdb', socket, '--wait'));
    await run.seen(`-ex 'target remote ${socket}'`);
    using gdb = await gdbClient(socket);
    expect(await gdb.ask('vCont;c')).toBe('W03');
    expect((await run.ended).status).toBe(3);
    expect(existsSync(socket)).toBe(false);
  });

  it('--explore: prints the address of a page, which is gone with the machine', async () => {
    const run = start(flat(SPIN, 'real', '--explore', '--timeout', '3'));
    const url = /http:\/\/127\.0\.0\.1:\d+\/[\w-]{32}\//.exec(await run.seen('/\n'))?.[0] ?? '';
    using page = await ExplorerClient.open(url);
    expect(await page.next('hello', () => true, 0)).toMatchObject({ mode: 'live', name: 'guest.bin', isTraced: true });
    const { report } = await page.next('ended');
    expect(report).toMatchObject({ title: 'The time was over', details: ['Status 124'] });
    expect(await page.closed).toBe(1001);
    expect((await run.ended).status).toBe(124);
  });

  it('--explore: a port that is somebody’s, one that is none, and gdb beside it are refused, and nothing runs', async () => {
    await using other = await servePage(0, { onOpen: () => {}, onRequest: () => {}, onClose: () => {} });
    const { port } = new URL(other.url);
    const taken = await microvisor(flat(SPIN, 'real', '--explore', port));
    expect([taken.status, taken.stderr]).toEqual([
      2,
      `microvisor: --explore: the explorer cannot have port ${port} of 127.0.0.1 (EADDRINUSE); something else listens there; choose another\n`,
    ]);
    expect((await microvisor(flat(SPIN, 'real', '--explore', '70000'))).stderr).toMatch(/from 1 to 65535/);
    expect((await microvisor(flat(SPIN, 'real', '--explore', '--gdb', '7000'))).stderr).toMatch(
      /leave one of them out/,
    );
  });

  it('trace FILE --explore: shows a recording until it is told to end', async () => {
    const trace = join(directory, 'b.trace');
    expect((await microvisor(flat(debugExit(1), 'real', '--trace', trace))).status).toBe(3);
    const run = start(['trace', trace, '--explore']);
    const url = /http:\S+/.exec(await run.seen('Ctrl-C ends it'))?.[0] ?? '';
    using page = await ExplorerClient.open(url);
    expect(await page.next('hello', () => true, 0)).toMatchObject({ mode: 'recording', name: 'b.trace' });
    expect((await page.next('recording', () => true, 0)).summary.kinds).toContainEqual(
      expect.objectContaining({ name: 'out 0xf4 debug-exit' }),
    );
    run.child.kill('SIGINT');
    expect((await run.ended).signal).toBe('SIGINT');
    expect((await microvisor(['trace', trace, '--explore', '--json'])).stderr).toMatch(/leave one of them out/);
  });

  it('--wait without --gdb, and a port that is none, are refused', async () => {
    expect((await microvisor(flat(SPIN, 'real', '--wait'))).stderr).toMatch(/add --gdb PORT/);
    expect((await microvisor(flat(SPIN, 'real', '--gdb', '70000'))).stderr).toMatch(/from 1 to 65535/);
  });
});
