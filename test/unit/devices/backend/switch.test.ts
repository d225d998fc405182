// The Ethernet switch: who gets which frame, and what a hostile guest can make it forget.
// IEEE 802.1D §7.7, §7.8.
import { describe, expect, test } from 'vitest';
import type { NetBackend } from '../../../../src/devices/backend/net-backend.js';
import { SwitchNames } from '../../../../src/devices/backend/switch-names.js';
import { EthernetSwitch } from '../../../../src/devices/backend/switch.js';
import { frame, NetRig } from '../../../support/net-rig.js';

const mac = (last: number): Uint8Array => Uint8Array.of(2, 0, 0, 0, last >> 8, last & 0xff);
const BROADCAST = Uint8Array.of(255, 255, 255, 255, 255, 255);

/** A card in a port: what it got, and whether it has room. */
class Station {
  readonly got: Uint8Array[] = [];
  hasRoom = true;

  constructor(
    readonly port: NetBackend,
    readonly mac: Uint8Array,
  ) {
    void port.open({
      mac,
      receive: (bytes) => {
        if (this.hasRoom) this.got.push(bytes.slice());
        return this.hasRoom;
      },
      ready: () => undefined,
      setLinkUp: () => undefined,
      warn: () => undefined,
    });
  }

  send(to: Uint8Array, from = this.mac, length = 60): void {
    this.port.send(frame(length, { to, from }));
  }
}

function network(count: number, lan = new EthernetSwitch()): Station[] {
  return Array.from({ length: count }, (_, i) => new Station(lan.port(), mac(i + 1)));
}

const counts = (stations: readonly Station[]): number[] => stations.map(({ got }) => got.length);

describe('forwarding', () => {
  test('an unknown address is flooded, a known one is not; nobody hears himself', () => {
    const stations = network(3) as [Station, Station, Station];
    const [a, b, c] = stations;
    a.send(b.mac);
    expect(counts(stations)).toEqual([0, 1, 1]);
    b.send(a.mac);
    expect(counts(stations)).toEqual([1, 1, 1]);
    a.send(b.mac);
    expect(counts(stations)).toEqual([1, 2, 1]);
    c.send(BROADCAST);
    expect(counts(stations)).toEqual([2, 3, 1]);
    c.send(c.mac);
    expect(counts(stations)).toEqual([2, 3, 1]);
  });

  test('a station that moves is found where it sent from last', () => {
    const stations = network(3) as [Station, Station, Station];
    const [a, b, c] = stations;
    b.send(a.mac, mac(99));
    c.send(a.mac, mac(99));
    const before = counts(stations);
    a.send(mac(99));
    expect(counts(stations)).toEqual([before[0], before[1], (before[2] ?? 0) + 1]);
  });

  test('where it was before is not asked any more', async () => {
    const stations = network(3) as [Station, Station, Station];
    const [a, b, c] = stations;
    b.send(a.mac, mac(99));
    c.send(a.mac, mac(99));
    await b.port.close();
    a.got.length = c.got.length = 0;
    a.send(mac(99));
    c.send(a.mac, c.mac);
    expect(counts([a, c])).toEqual([1, 1]);
    const lan = new EthernetSwitch();
    const [d, e] = network(2, lan) as [Station, Station];
    d.send(e.mac, mac(99));
    e.send(d.mac, mac(99));
    await d.port.close();
    expect(lan.addresses).toBe(1);
  });

  test('a group address is never learnt, and a frame without addresses goes nowhere', () => {
    const lan = new EthernetSwitch();
    const stations = network(2, lan) as [Station, Station];
    stations[0].send(stations[1].mac, BROADCAST);
    expect(lan.addresses).toBe(0);
    stations[0].port.send(new Uint8Array(13));
    expect(counts(stations)).toEqual([0, 1]);
  });

  test('a port that is plugged out is forgotten, with its addresses', async () => {
    const lan = new EthernetSwitch();
    const stations = network(2, lan) as [Station, Station];
    stations[1].send(BROADCAST);
    await stations[1].port.close();
    expect([lan.size, lan.addresses]).toEqual([1, 0]);
    stations[0].send(stations[1].mac);
    expect(counts(stations)).toEqual([1, 0]);
  });

  test('a port is for one card', () => {
    const port = new EthernetSwitch().port();
    expect(new Station(port, mac(1)).got).toEqual([]);
    expect(() => new Station(port, mac(2))).toThrow('a port of a switch is for one network card');
  });
});

describe('bounds', () => {
  test('a guest with a million addresses makes the switch forget its own only', () => {
    const lan = new EthernetSwitch({ portAddresses: 16 });
    const stations = network(3, lan) as [Station, Station, Station];
    const [a, b, c] = stations;
    b.send(BROADCAST);
    for (let i = 0; i < 1_000_000; i++) {
      if (i % 10_000 === 0) a.got.length = b.got.length = c.got.length = 0;
      a.port.send(frameFrom(i));
    }
    expect(lan.addresses).toBe(17);
    a.got.length = b.got.length = c.got.length = 0;
    a.send(b.mac);
    expect(counts(stations)).toEqual([0, 1, 0]);
  });

  test('frames for a guest without room wait in order, up to a bound; the rest is dropped and counted', () => {
    const lan = new EthernetSwitch({ queueFrames: 10 });
    const stations = network(2, lan) as [Station, Station];
    const [a, b] = stations;
    b.hasRoom = false;
    for (let i = 0; i < 100; i++) a.send(b.mac, a.mac, 60 + i);
    expect(b.port.counters?.()).toEqual({ switchDropped: 90 });
    b.port.resume?.();
    b.hasRoom = true;
    b.port.resume?.();
    a.send(b.mac, a.mac, 500);
    expect(b.got.map(({ length }) => length)).toEqual([...Array.from({ length: 10 }, (_, i) => 60 + i), 500]);
  });
});

/** One buffer is enough for a million frames. */
const evil = frame(60, { to: mac(1), from: mac(1) });
function frameFrom(address: number): Uint8Array {
  evil[6] = 6;
  for (let i = 0; i < 4; i++) evil[8 + i] = (address >>> (8 * i)) & 0xff;
  return evil;
}

describe('switches by name', () => {
  test('the same name is the same switch, as long as anybody is in it', async () => {
    const names = new SwitchNames();
    const stations = [new Station(names.port('lan'), mac(1)), new Station(names.port('lan'), mac(2))] as const;
    const other = new Station(names.port('dmz'), mac(3));
    stations[0].send(BROADCAST);
    expect(counts([...stations, other])).toEqual([0, 1, 0]);
    for (const { port } of [...stations, other]) await port.close();
    expect(names.size).toBe(0);
  });

  test('two cards: what one sends the other gets, whole', async () => {
    const names = new SwitchNames();
    const [a, b] = [
      await NetRig.start(names.port('lan'), { mac: mac(1) }),
      await NetRig.start(names.port('lan'), { mac: mac(2) }),
    ];
    b.offer();
    await b.settle();
    const sent = frame(1514, { to: mac(2), from: mac(1) });
    a.transmit(sent);
    await a.settle();
    expect(Buffer.compare(b.takeFrame()?.body ?? Buffer.alloc(0), sent)).toBe(0);
    await a.close();
    await b.close();
    expect(names.size).toBe(0);
  });
});
