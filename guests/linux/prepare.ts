// Prepares the default guest: builds what is not in the cache yet and says where kernel and initramfs lie.
// Our own; the parts are small-kernel.ts, stock-kernel.ts and initramfs.ts, the cache's rules are in cache.ts.

import { existsSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findBusybox } from './busybox.js';
import { artifact, defaultCacheDirectory, hashOf, replaceFile, withCacheLock } from './cache.js';
import { buildInitramfs, initramfsLayout } from './initramfs.js';
import { initSources } from './init-program.js';
import {
  ensureInstalled,
  haveApt,
  INITRAMFS_NEEDS,
  KERNEL_NEEDS,
  offeredKernelSource,
  updateLists,
  type PackageOptions,
} from './packages.js';
import { buildSmallKernel, kernelSourceIdentity, userKernelSource, type KernelSource } from './small-kernel.js';
import { offeredStockKernel, readStockModules, unpackStockKernel, wantedModules } from './stock-kernel.js';

/** Part of every cache name: to be raised when these scripts change what they build from equal inputs. */
const SCRIPT_VERSION = '1';

/** `small`: our configuration, an ELF vmlinux. `stock`: Debian's cloud kernel, a bzImage, with modules. */
export type GuestFlavour = 'small' | 'stock';

/** The command line for every host; what remedies one host's shortcomings is added elsewhere. */
const CMDLINE: Readonly<Record<GuestFlavour, string>> = {
  small: 'console=ttyS0 reboot=k panic=-1 quiet random.trust_cpu=on',
  // No PS/2 devices are there to wait for.
  stock: 'console=ttyS0 reboot=k panic=-1 quiet random.trust_cpu=on i8042.noaux i8042.nokbd',
};

export interface GuestProgress {
  /** A few words for a person: "kernel", "initramfs", "waiting". */
  readonly stage: string;
  /** Of the whole preparation, 0 to 1, never falling. */
  readonly fraction: number;
  readonly detail?: string;
}

export interface PrepareOptions {
  readonly flavour: GuestFlavour;
  /** A kernel source tree or tarball for the small kernel, instead of apt's newest linux-source package. */
  readonly kernelSource?: string;
  /** Default: `$XDG_CACHE_HOME/microvisor` or `~/.cache/microvisor`. */
  readonly cacheDirectory?: string;
  readonly onProgress?: (progress: GuestProgress) => void;
  readonly signal?: AbortSignal;
}

export interface PreparedGuest {
  readonly flavour: GuestFlavour;
  /** Path of the vmlinux (small) or bzImage (stock). */
  readonly kernel: string;
  /** Path of the uncompressed cpio archive. */
  readonly initrd: string;
  readonly cmdline: string;
}

/** What a small file in the cache remembers of a finished preparation. */
interface Recipe {
  readonly kernel: string;
  readonly initrd: string;
}

/** Compiled files lie in dist/guests/linux, three levels under the package. */
function sourceDirectory(): string {
  return fileURLToPath(new URL('../../../guests/linux/', import.meta.url));
}

function parseRecipe(text: string): Recipe | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== 'object' || value === null || !('kernel' in value) || !('initrd' in value)) return undefined;
    return typeof value.kernel === 'string' && typeof value.initrd === 'string'
      ? { kernel: value.kernel, initrd: value.initrd }
      : undefined;
  } catch {
    return undefined;
  }
}

async function lookUp(directory: string, recipeName: string): Promise<Recipe | undefined> {
  const text = await readFile(join(directory, recipeName), 'utf8').catch(() => '');
  const recipe = parseRecipe(text);
  if (recipe === undefined) return undefined;
  const complete = existsSync(join(directory, recipe.kernel)) && existsSync(join(directory, recipe.initrd));
  return complete ? recipe : undefined;
}

/** A progress callback whose fraction never falls, whatever the parts report. */
function monotonic(
  onProgress: PrepareOptions['onProgress'],
): (stage: string, fraction: number, detail: string) => void {
  let highest = 0;
  return (stage, fraction, detail) => {
    highest = Math.max(highest, Math.min(fraction, 1));
    onProgress?.({ stage, fraction: highest, detail });
  };
}

/** The source of a guest for which none was named. */
const APT = 'apt';

/** Where a guest of these options is, or will be, remembered; and what that takes to find out. */
interface Place {
  readonly directory: string;
  readonly recipeName: string;
  /** Where it is remembered, too. */
  readonly alsoNamed: string | undefined;
  readonly config: string;
  readonly init: readonly string[];
  readonly userSource: KernelSource | undefined;
}

interface Work extends Place {
  readonly sources: string;
  readonly report: (stage: string, fraction: number, detail: string) => void;
  readonly signal: AbortSignal | undefined;
}

/** Shares of the progress bar. */
const START_SHARE = 0.02;
const KERNEL_SHARE = 0.95;

function packageOptions(work: Work, stage: string, fraction: number): PackageOptions {
  return { signal: work.signal, onDetail: (detail) => work.report(stage, fraction, detail) };
}

async function initramfs(work: Work, modulesFrom: string | undefined): Promise<string> {
  const options = packageOptions(work, 'initramfs', KERNEL_SHARE);
  await ensureInstalled(INITRAMFS_NEEDS, options);
  const busybox = await findBusybox(options);
  const key = hashOf([SCRIPT_VERSION, initramfsLayout(), JSON.stringify(busybox), modulesFrom ?? '', ...work.init]);
  work.report('initramfs', KERNEL_SHARE, 'building');
  await artifact(work.directory, `initrd-${key}`, async (place) => {
    const modules = modulesFrom === undefined ? undefined : await readStockModules(join(work.directory, modulesFrom));
    await buildInitramfs({ initDirectory: join(work.sources, 'init'), busybox, modules }, place, options);
  });
  return join(`initrd-${key}`, 'initrd.cpio');
}

async function prepareSmall(work: Work): Promise<Recipe> {
  const options = packageOptions(work, 'kernel', START_SHARE);
  await ensureInstalled(KERNEL_NEEDS, options);
  if (work.userSource === undefined && !haveApt()) {
    throw new Error(
      'cannot build the default guest: this machine has no apt; name a kernel source with --kernel-source',
    );
  }
  const source = work.userSource ?? { kind: 'package', ...(await offeredKernelSource(options)) };
  const key = hashOf([SCRIPT_VERSION, work.config, await kernelSourceIdentity(source)]);
  await artifact(work.directory, `kernel-${key}`, (place) =>
    buildSmallKernel(source, place, {
      config: work.config,
      signal: work.signal,
      onProgress: (fraction, detail) =>
        work.report('kernel', START_SHARE + fraction * (KERNEL_SHARE - START_SHARE), detail),
    }),
  );
  return { kernel: join(`kernel-${key}`, 'vmlinux'), initrd: await initramfs(work, undefined) };
}

async function prepareStock(work: Work): Promise<Recipe> {
  if (!haveApt()) throw new Error("cannot prepare the stock guest: it is Debian's kernel, and this machine has no apt");
  const options = packageOptions(work, 'kernel', START_SHARE);
  const kernel = await offeredStockKernel(options);
  const name = `stock-${hashOf([SCRIPT_VERSION, wantedModules(), kernel.name, kernel.version])}`;
  work.report('kernel', START_SHARE, `downloading ${kernel.name} ${kernel.version}`);
  await artifact(work.directory, name, (place) => unpackStockKernel(kernel, place, options));
  return { kernel: join(name, 'vmlinuz'), initrd: await initramfs(work, name) };
}

async function placeOf(options: PrepareOptions): Promise<Place> {
  const { flavour } = options;
  const config = readFileSync(join(sourceDirectory(), 'kernel.config'), 'utf8');
  const init = initSources(join(sourceDirectory(), 'init')).flatMap(({ name, text }) => [name, text]);
  const userSource =
    flavour === 'small' && options.kernelSource !== undefined
      ? await userKernelSource(options.kernelSource)
      : undefined;
  const identity = userSource === undefined ? APT : await kernelSourceIdentity(userSource);
  const recipeOf = (source: string): string =>
    `${flavour}-${hashOf([SCRIPT_VERSION, source, config, initramfsLayout(), wantedModules(), ...init])}.json`;
  return {
    directory: options.cacheDirectory ?? defaultCacheDirectory(),
    recipeName: recipeOf(identity),
    // Without apt there is no other guest to be had, so one that was made once is the default from then on.
    alsoNamed: userSource !== undefined && !haveApt() ? recipeOf(APT) : undefined,
    config,
    init,
    userSource,
  };
}

async function guestIn({ directory, recipeName }: Place, flavour: GuestFlavour): Promise<PreparedGuest | undefined> {
  const recipe = await lookUp(directory, recipeName);
  if (recipe === undefined) return undefined;
  return {
    flavour,
    kernel: join(directory, recipe.kernel),
    initrd: join(directory, recipe.initrd),
    cmdline: CMDLINE[flavour],
  };
}

/** The default guest where the cache holds it whole, undefined where it is still to be made. */
export async function findGuest(options: PrepareOptions): Promise<PreparedGuest | undefined> {
  return guestIn(await placeOf(options), options.flavour);
}

/**
 * Gives the default guest's kernel, initramfs and command line, and makes first what the cache does not hold.
 * The small kernel takes some minutes once; a hit takes milliseconds and asks neither apt nor any big file. A newer
 * package is looked for only when something has to be made anyway: remove the cache directory to force it.
 * Rejects when a tool or package cannot be had (the message names it and the command), when building fails, and when
 * `signal` is aborted; nothing half-made is left where a later call would find it.
 */
export async function prepareGuest(options: PrepareOptions): Promise<PreparedGuest> {
  const { flavour, signal } = options;
  const place = await placeOf(options);
  const hit = await guestIn(place, flavour);
  if (hit !== undefined) return hit;

  const report = monotonic(options.onProgress);
  const onWait = (holder: string): void =>
    report('waiting', 0, `another process (${holder || 'unknown'}) is preparing a guest`);
  return withCacheLock(place.directory, { onWait, signal }, async () => {
    // Whoever held the lock may have made it.
    const made = await guestIn(place, flavour);
    if (made !== undefined) return made;
    const work: Work = { ...place, sources: sourceDirectory(), report, signal };
    await updateLists(packageOptions(work, 'packages', 0));
    const recipe = flavour === 'small' ? await prepareSmall(work) : await prepareStock(work);
    for (const name of [place.recipeName, place.alsoNamed])
      if (name !== undefined)
        await replaceFile(join(place.directory, name), `${JSON.stringify(recipe, undefined, 2)}\n`);
    report('ready', 1, '');
    const guest = await guestIn(place, flavour);
    if (guest === undefined) throw new Error(`the guest that was just prepared is not in ${place.directory} any more`);
    return guest;
  });
}
