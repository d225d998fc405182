// A recording in the explorer's page, in a real browser, without /dev/kvm: what it shows, says, and does by keys.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { KVM_EXIT_IO } from '../../../src/kvm/abi.js';
import { encodeHeader, encodeRecords, TraceFile } from '../../../src/machine/trace/trace-format.js';
import type { TracedExit } from '../../../src/vcpu/observe/trace-reader.js';
import type { Explorer } from '../../../src/web/explore.js';
import { exploreRecording } from '../../../src/web/explore-recording.js';
import { colours, drawnPixels, launchBrowser, openPage, overflows, SIZES } from '../../support/browser.js';
import { ExplorerClient } from '../../support/explorer-client.js';
import { programsMissing } from '../../support/programs.js';

const KHZ = 1_000_000;
const HEADER = {
  kernel: 'vmlinux',
  cmdline: 'console=ttyS0',
  cpus: 2,
  tscKhz: KHZ,
  devices: [
    {
      space: 'port' as const,
      base: 0x3f8,
      length: 8,
      name: 'COM1',
      registers: [{ offset: 0, name: 'THR', size: 1, access: 'write' as const }],
    },
  ],
};

/** Exit number `index` of a vCPU: one each 10 µs, served in 2 µs. */
function exit(index: number): TracedExit {
  const access = { space: 'port' as const, address: 0x3f8, isWrite: true, size: 1, count: 1, value: 0x41 };
  return { entered: index * 10_000 + 2000, exited: (index + 1) * 10_000, reason: KVM_EXIT_IO, access, words: [] };
}

function writeTrace(path: string, exits: number): void {
  const rows = Array.from({ length: exits }, (_, index) => exit(index));
  writeFileSync(
    path,
    Buffer.concat([encodeHeader(HEADER), encodeRecords(0, rows, 0), encodeRecords(1, rows.slice(0, 10), 3)]),
  );
}

let folder = '';
const opened: Disposable[] = [];

async function recording(exits: number): Promise<Explorer> {
  const path = join(folder, `${exits}.trace`);
  writeTrace(path, exits);
  const file = TraceFile.open(path);
  opened.push(file);
  return exploreRecording(file, 'a.trace');
}

beforeAll(() => void (folder = mkdtempSync(join(tmpdir(), 'microvisor-page-'))));
afterAll(() => {
  for (const file of opened) file[Symbol.dispose]();
  rmSync(folder, { recursive: true });
});

describe('a recording', () => {
  it('is told in whole: counts, latencies, and the exits of any span', async () => {
    await using explorer = await recording(100);
    using page = await ExplorerClient.open(explorer.url);
    const { summary } = await page.next('recording', () => true, 0);
    expect(summary).toMatchObject({ exits: 110, lost: 3, kinds: [{ name: 'out 0x3f8 COM1 THR', count: 110 }] });
    const answer = await page.ask({ type: 'span', from: 0.495, to: 0.525 });
    expect(answer).toMatchObject({ isWhole: true });
    // Those that were entered to, or served, within: exits at 0.49 (served till 0.492) to 0.53 ms (entered to at 0.522).
    const exits = 'exits' in answer ? answer.exits.map(({ exited }) => Math.round((exited + 2000) / 10_000)) : [];
    expect(exits).toEqual([50, 51, 52, 53]);
  });

  it('has too many exits to be shown at once: then it says so, and a part of it is shown', async () => {
    await using explorer = await recording(120_000);
    using page = await ExplorerClient.open(explorer.url);
    expect(await page.ask({ type: 'span', from: 0, to: 1200 })).toMatchObject({ isWhole: false, exits: [] });
    const answer = await page.ask({ type: 'span', from: 600, to: 601 });
    expect(answer).toMatchObject({ isWhole: true });
    expect('exits' in answer ? answer.exits.length : 0).toBeGreaterThanOrEqual(100);
  });

  it('has no machine: "other panels absent, said so"', async () => {
    await using explorer = await recording(10);
    using page = await ExplorerClient.open(explorer.url);
    expect(await page.ask({ type: 'memory', space: 'physical', vcpu: 0, address: '0', length: 16 })).toMatchObject({
      error: 'There is no machine behind a recording.',
    });
    page.send({ type: 'pause' });
    page.send({ type: 'input', text: 'x' });
    expect(await page.ask({ type: 'span', from: 0, to: 1 })).toMatchObject({ isWhole: true });
  });
});

const missing = programsMissing('chromium');

describe.skipIf(missing !== undefined)(`in a browser${missing === undefined ? '' : `: ${missing}`}`, () => {
  let browser: Browser;
  beforeAll(async () => void (browser = await launchBrowser()));
  afterAll(() => browser.close());

  it('shows a timeline, counts and latencies, without asking anybody else for anything', async () => {
    await using explorer = await recording(100);
    await using open = await openPage(browser, explorer.url);
    const { page, complaints } = open;
    await page.getByText('Recording', { exact: true }).waitFor();
    expect(await page.title()).toBe('a.trace – Microvisor');
    await page.getByRole('rowheader', { name: 'out 0x3f8 COM1 THR' }).waitFor();
    await page.getByText('in sight').waitFor();
    await expect.poll(() => drawnPixels(page, '#timeline-canvas')).toBeGreaterThan(1000);
    await page.keyboard.press('2');
    await page.getByText('From exit to entry: out 0x3f8 COM1 THR').waitFor();
    await expect.poll(() => drawnPixels(page, '.histogram')).toBeGreaterThan(1000);
    for (const [key, sentence] of [
      ['3', 'A recording has no device registers'],
      ['4', 'A recording has no processor registers'],
      ['5', 'A recording has no memory'],
    ] as const) {
      await page.keyboard.press(key);
      await page.getByText(sentence).waitFor();
    }
    expect(await page.getByText('no console, registers or memory').isVisible()).toBe(true);
    expect(await page.locator('#controls').isVisible()).toBe(false);
    expect(complaints).toEqual([]);
  });

  it('"keyboard control (and a key help)": looks closer, back, and says what an exit under the pointer was', async () => {
    await using explorer = await recording(100);
    await using open = await openPage(browser, explorer.url);
    const { page } = open;
    const sight = page.locator('#timeline-span');
    await expect.poll(() => sight.textContent()).toContain('998.00 µs in sight');
    await page.keyboard.press('+');
    await expect.poll(() => sight.textContent()).toContain('623');
    await page.keyboard.press('-');
    await expect.poll(() => sight.textContent()).toContain('998.00 µs');
    const box = await page.locator('#timeline-canvas').boundingBox();
    await page.mouse.move((box?.x ?? 0) + 62 + ((box?.width ?? 0) - 62) / 2, (box?.y ?? 0) + 34);
    await page.getByText('0x3f8: 0x41 (1 byte)').waitFor();
    await page.getByText('served in 2.00 µs').waitFor();
    await page.keyboard.press('?');
    await page.getByRole('dialog').getByText('Run to the next exit').waitFor();
    await page.keyboard.press('Escape');
    expect(await page.getByRole('dialog').count()).toBe(0);
  });

  it.each(SIZES)('"no overflow" at $width × $height, by day and by night', async (size) => {
    await using explorer = await recording(100);
    for (const scheme of ['light', 'dark'] as const) {
      await using open = await openPage(browser, explorer.url, { scheme, size });
      await open.page.getByText('in sight').waitFor();
      expect(await overflows(open.page)).toEqual([]);
    }
  });

  it('"prefers-color-scheme plus toggle": follows the system, and T changes it for good', async () => {
    await using explorer = await recording(10);
    await using day = await openPage(browser, explorer.url, { scheme: 'light' });
    await using night = await openPage(browser, explorer.url, { scheme: 'dark' });
    const [light, dark] = await Promise.all([colours(day.page), colours(night.page)]);
    expect(light).not.toEqual(dark);
    await day.page.keyboard.press('t');
    await expect.poll(() => colours(day.page)).toEqual(dark);
    await day.page.reload();
    await expect.poll(() => colours(day.page)).toEqual(dark);
    await day.page.keyboard.press('t');
    await expect.poll(() => colours(day.page)).toEqual(light);
  });

  it('says when the server has gone, and when the address is not good', async () => {
    const explorer = await recording(10);
    await using open = await openPage(browser, explorer.url);
    await open.page.getByText('Recording', { exact: true }).waitFor();
    await explorer.close();
    await open.page.getByRole('alert').getByText('The server has gone').waitFor();
    await open.page.getByText('No connection').waitFor();
  });

  it('another site’s page can neither open the socket nor frame the page', async () => {
    await using explorer = await recording(10);
    const { createServer } = await import('node:http');
    const foreign = createServer((_request, response) => {
      response.setHeader('Content-Type', 'text/html');
      response.end(`<iframe src="${explorer.url}"></iframe><script>
        const socket = new WebSocket('${explorer.url.replace('http:', 'ws:')}socket');
        socket.onopen = () => (document.title = 'open');
        socket.onerror = () => (document.title = 'refused');
      </script>`);
    });
    await new Promise<void>((resolve) => foreign.listen(0, '127.0.0.1', resolve));
    const { port } = foreign.address() as { port: number };
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${port}/`);
    await expect.poll(() => page.title()).toBe('refused');
    await expect.poll(() => page.frames().length).toBe(2);
    expect(await page.frameLocator('iframe').locator('#timeline').count()).toBe(0);
    await page.close();
    foreign.close();
  });
});
