// The explorer's page over a machine on the real KVM, in a real browser: Debian's chromium. Guests of a few bytes.
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createVm, explore, type Vm, type VmConfig } from '../../src/index.js';
import { drawnPixels, launchBrowser, openPage, overflows, SIZES } from '../support/browser.js';
import { noKvm } from '../support/kvm.js';
import { programsMissing } from '../support/programs.js';

const missing = programsMissing('chromium');
const cannot = noKvm || missing !== undefined;

/**
 * Long mode: mov $'A',%al; mov $0x3f8,%dx; out %al,(%dx); incl 0x600; mov $0x8000,%ecx; loop to itself; jmp to the start:
 * a letter now and then, so that the terminal has time for it.
 */
const PRINTS = Buffer.from('b04166baf803eeff042500060000b900800000e2feebe9', 'hex');
/** Protected mode: prints what it reads on COM1. */
const ECHOES = Buffer.from('66bafd03eca80174fb66baf803eceeebef', 'hex');
/** ud2 with an empty IDT. */
const TRIPLE_FAULT = Uint8Array.of(0x90, 0x0f, 0x0b);

interface Explored extends AsyncDisposable {
  readonly vm: Vm;
  readonly page: Page;
  readonly complaints: readonly string[];
  readonly close: () => Promise<void>;
}

describe.skipIf(cannot)(`the page${missing === undefined ? '' : `: ${missing}`}`, () => {
  let browser: Browser;
  beforeAll(async () => void (browser = await launchBrowser()));
  afterAll(() => browser.close());

  async function explored(
    bytes: Uint8Array,
    more: Partial<VmConfig> = {},
    look: Parameters<typeof openPage>[2] = {},
  ): Promise<Explored> {
    const kernel = { name: 'explore', bytes };
    const vm = await createVm({ kernel, entry: 'long', cmdline: '', memoryMiB: 4, trace: true, ...more });
    const explorer = await explore(vm, { name: 'a guest' });
    const open = await openPage(browser, explorer.url, look);
    await open.page.getByText('Not started').waitFor();
    const end = async (): Promise<void> => {
      await open[Symbol.asyncDispose]();
      await vm.stop();
      await explorer.close();
    };
    return {
      vm,
      page: open.page,
      complaints: open.complaints,
      close: () => explorer.close(),
      [Symbol.asyncDispose]: end,
    };
  }

  it('"the guest’s console (typing works)"', async () => {
    await using it = await explored(ECHOES, { entry: 'protected' });
    const { vm, page, complaints } = it;
    await vm.start();
    await page.getByText('Running').waitFor();
    await page.keyboard.type('hello, guest p e i');
    await expect.poll(() => page.locator('.xterm-rows').textContent()).toContain('hello, guest p e i');
    // Letters belong to the guest there, function keys to the page.
    expect(vm.state).toBe('running');
    await page.keyboard.press('F8');
    await expect.poll(() => vm.state).toBe('paused');
    expect(complaints).toEqual([]);
  });

  it('shows exits by register, histograms, a timeline and device registers while the guest runs', async () => {
    await using it = await explored(PRINTS);
    const { vm, page, complaints } = it;
    await vm.start();
    const row = page.getByRole('row').filter({ hasText: 'COM1 THR' });
    await row.getByText('0x3f8').waitFor();
    await page.locator('.chart-legend').getByText('IO').waitFor();
    await expect.poll(() => drawnPixels(page, '#tab-exits canvas')).toBeGreaterThan(100);
    await expect.poll(() => drawnPixels(page, '#timeline-canvas')).toBeGreaterThan(1000);
    await page.getByRole('tab', { name: 'Latencies' }).click();
    await page.getByText('From exit to entry: out 0x3f8 COM1 THR').waitFor();
    await page.getByRole('tab', { name: 'Devices' }).click();
    await page.getByRole('option', { name: 'COM1.tx' }).click();
    const head = page.getByRole('row').filter({ hasText: 'bytes taken so far' });
    const before = await head.textContent();
    await expect.poll(() => head.textContent()).not.toBe(before);
    expect(complaints).toEqual([]);
  });

  it('pauses, steps, walks and shows memory by keys alone, and goes on', async () => {
    await using it = await explored(PRINTS);
    const { vm, page, complaints } = it;
    await vm.start();
    await page.getByText('Running').waitFor();
    await page.keyboard.press('F6');
    await page.keyboard.press('4');
    await page.getByText('Pause the machine (P or F8)').waitFor();
    await page.keyboard.press('p');
    await page.getByText('long mode · 64-bit code · CPL 0 · paging 4-level').waitFor();
    await page.keyboard.press('e');
    // Behind the out.
    await page.locator('.instruction.now').getByText('00100007').waitFor();
    const count = vm.memory.readU32(0x600);
    await page.keyboard.press('i');
    await page.locator('.instruction.now').getByText('0010000e').waitFor();
    expect(vm.memory.readU32(0x600)).toBe(count + 1);
    await page.locator('.register.moved').getByText('RIP').waitFor();
    await page.locator('.walk-block summary').press('Enter');
    await page.getByText('2 MiB page · supervisor, writeable, executable').waitFor();
    await page.getByLabel('linear address').fill('ffff800000000000');
    await page.keyboard.press('Enter');
    await page.getByText('not present', { exact: true }).waitFor();
    await page.getByLabel('linear address').blur();
    await page.keyboard.press('5');
    await page.getByLabel('address', { exact: true }).fill('0x10_0000');
    await page.keyboard.press('Enter');
    await expect.poll(() => page.locator('.hex-row').first().textContent()).toContain('b04166baf803ee');
    await page.getByLabel('address', { exact: true }).blur();
    await page.keyboard.press('p');
    await page.getByText('Running').waitFor();
    await expect.poll(() => vm.memory.readU32(0x600)).toBeGreaterThan(count + 2);
    expect(complaints).toEqual([]);
  });

  it.each(SIZES)(
    '"no overflow" at $width × $height: running and paused, each panel, by day and by night',
    async (size) => {
      for (const scheme of ['light', 'dark'] as const) {
        await using it = await explored(PRINTS, { cpus: 2 }, { scheme, size });
        const { vm, page } = it;
        await vm.start();
        await page.getByText('Running').waitFor();
        await page.keyboard.press('F6');
        for (const state of ['Running', 'Paused']) {
          if (state === 'Paused') await page.keyboard.press('p');
          await page.getByText(state, { exact: true }).waitFor();
          for (const key of ['1', '2', '3', '4', '5']) {
            await page.keyboard.press(key);
            expect(await overflows(page), `${scheme}, ${state}, ${key}`).toEqual([]);
          }
        }
      }
    },
  );

  it('says how the guest ended, with the boot doctor’s words, and when the process is gone after that', async () => {
    await using it = await explored(TRIPLE_FAULT, { entry: 'protected' });
    const { vm, page, close } = it;
    await vm.start();
    await page.getByText('Failed', { exact: true }).waitFor();
    const banner = page.getByRole('alert');
    await banner
      .getByText(/triple fault/i)
      .first()
      .waitFor();
    await banner.getByText('What the boot doctor says').waitFor();
    expect(await page.getByRole('button', { name: 'Pause' }).isDisabled()).toBe(true);
    expect(await overflows(page)).toEqual([]);
    // The registers as they were then.
    await page.getByRole('tab', { name: 'Processor' }).click();
    await page.locator('.instruction.now').getByText('ud2').waitFor();
    await close();
    await banner.getByText('what is shown here is the last that was seen').waitFor();
  });
});
