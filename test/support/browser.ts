// A real browser for the explorer's page: Debian's chromium, without a profile, without the network.
// playwright-core drives it; each test has a page of its own, which must not complain.
import { chromium, type Browser, type Page } from 'playwright-core';
import { programPath } from './programs.js';

export const SIZES = [
  { width: 1280, height: 800 },
  { width: 1600, height: 1000 },
] as const;

export function launchBrowser(): Promise<Browser> {
  return chromium.launch({
    executablePath: programPath('chromium') ?? 'chromium',
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}

export interface OpenPage extends AsyncDisposable {
  readonly page: Page;
  /** What the browser complained about, and what was asked of anybody but the page's own server. */
  readonly complaints: readonly string[];
}

export async function openPage(
  browser: Browser,
  url: string,
  options: { readonly scheme?: 'light' | 'dark'; readonly size?: (typeof SIZES)[number] } = {},
): Promise<OpenPage> {
  const { scheme = 'light', size = SIZES[0] } = options;
  const page = await browser.newPage({ viewport: size, colorScheme: scheme });
  const complaints: string[] = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
  });
  page.on('request', (request) => {
    const asked = request.url();
    if (!asked.startsWith(url) && !asked.startsWith('data:')) complaints.push(`it asked for ${asked}`);
  });
  await page.goto(url);
  return { page, complaints, [Symbol.asyncDispose]: () => page.close() };
}

/** Panels and buttons that stick out of the window, or words that are cut off in a button. */
export function overflows(page: Page): Promise<string[]> {
  // Runs in the browser, whose types are not ours.
  return page.evaluate(`(() => {
    const out = [];
    const name = (element) => element.id || element.className || element.tagName;
    if (document.documentElement.scrollWidth > innerWidth) out.push('the page is wider than the window');
    if (document.documentElement.scrollHeight > innerHeight) out.push('the page is higher than the window');
    for (const element of document.querySelectorAll('.panel, header, button, .tile, #timeline-canvas')) {
      const { left, right, top, bottom, width } = element.getBoundingClientRect();
      if (width === 0 || element.closest('.scroll, .devices, dialog')) continue;
      if (left < 0 || right > innerWidth || top < 0 || bottom > innerHeight) out.push(name(element) + ' sticks out');
      if (element.matches('button') && element.scrollWidth > element.clientWidth + 1) out.push(name(element) + ' is cut off');
    }
    return out;
  })()`);
}

/** The ground's and the letters' colours, as the browser has computed them. */
export function colours(page: Page): Promise<{ readonly ground: string; readonly ink: string }> {
  return page.evaluate(`(() => {
    const { backgroundColor, color } = getComputedStyle(document.body);
    return { ground: backgroundColor, ink: color };
  })()`);
}

/** How many pixels of a canvas are neither empty nor of the colour of most. */
export function drawnPixels(page: Page, selector: string): Promise<number> {
  return page.evaluate(`(() => {
    const canvas = document.querySelector(${JSON.stringify(selector)});
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const counts = new Map();
    for (let at = 0; at < data.length; at += 4) {
      const key = (data[at] << 16) | (data[at + 1] << 8) | data[at + 2];
      if (data[at + 3] > 0) counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    return [...counts.values()].toSorted((a, b) => b - a).slice(1).reduce((sum, count) => sum + count, 0);
  })()`);
}
