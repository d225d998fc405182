// A network namespace of the test's own: this process's main thread moves into it, and so does all that it starts.
// unshare(2), CLONE_NEWNET; ip-link(8). The vitest process of a file ends with the file, and the namespace with it.
import { execFileSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import koffi from 'koffi';

const CLONE_NEWNET = 0x4000_0000;

function reason(): string | undefined {
  if (process.getuid?.() !== 0) return 'a network namespace takes root: run the tests as root to have it';
  for (const [path, what] of [
    ['/dev/net/tun', 'the module tun'],
    ['/usr/sbin/ip', 'iproute2 (apt-get install iproute2)'],
  ] as const)
    try {
      accessSync(path, constants.R_OK);
    } catch {
      return `${path} is not there: this test needs ${what}`;
    }
  return undefined;
}

/** Why tests with namespaces cannot run, or undefined. */
export const noNetns = reason();

/** Leaves the machine's network for an empty one with `lo` up. Once a file, before anything listens. */
export function enterOwnNetwork(): void {
  const unshare = koffi.load(null).func('int unshare(int flags)') as (flags: number) => number;
  if (unshare(CLONE_NEWNET) !== 0) throw new Error(`unshare(CLONE_NEWNET): errno ${koffi.errno()}`);
  ip('link set lo up');
}

/** ip-*(8) in the namespace; returns what it prints. */
export function ip(words: string): string {
  return execFileSync('ip', words.split(' '), { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** An interface with an address and a default route: what passt takes for the way out. Nothing ever leaves it. */
export function addWayOut(): void {
  ip('tuntap add dev wayout mode tap');
  ip('addr add 10.77.0.2/24 dev wayout');
  ip('link set wayout up');
  ip('route add default via 10.77.0.1');
}

/** What `addWayOut` makes the guest's address, by DHCP, and its gateway, which is this host's loopback. */
export const WAY_OUT = { guest: '10.77.0.2', gateway: '10.77.0.1' } as const;
