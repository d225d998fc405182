// The network cards of a configuration: a virtio-net device each, with what stands behind it.
// One row a kind of backend.
import { parseMac, randomMac } from '../devices/backend/ethernet.js';
import type { NetBackend } from '../devices/backend/net-backend.js';
import { PasstBackend } from '../devices/backend/passt.js';
import { recordFrames } from '../devices/backend/pcap.js';
import { SwitchNames } from '../devices/backend/switch-names.js';
import { TapBackend } from '../devices/backend/tap.js';
import { NetDevice } from '../devices/virtio/net.js';
import type { CompleteNet } from './device-config.js';

/** The one piece of state of this process: machines that know nothing of each other meet here by a switch's name. */
const SWITCHES = new SwitchNames();

/** @throws what the backend throws: TapError, Error (passt, capture file); nothing stays open then */
export async function openNetDevice({ backend, mac, lockMac, pcap }: CompleteNet, name: string): Promise<NetDevice> {
  const inner = await createBackend(backend);
  const device = new NetDevice({
    name,
    backend: pcap === undefined ? inner : recordFrames(inner, pcap),
    mac: mac === undefined ? randomMac() : parseMac(mac),
    lockMac,
  });
  await device.open();
  return device;
}

async function createBackend(backend: CompleteNet['backend']): Promise<NetBackend> {
  if (!('kind' in backend)) return backend;
  switch (backend.kind) {
    case 'user':
      return new PasstBackend(backend);
    case 'tap':
      return TapBackend.create(backend.name);
    case 'switch':
      return SWITCHES.port(backend.name);
  }
}
