// Who may come through the debugger's door: src/machine/gdb-server.ts, with a machine that takes its time to stand.
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { GdbServer } from '../../../src/machine/gdb-server.js';
import type { DebuggedMachine } from '../../../src/machine/gdb-target.js';
import { GuestMemory } from '../../../src/memory/guest-memory.js';
import { gdbClient } from '../../support/gdb-client.js';

async function caller(address: string): Promise<Socket> {
  const [host = '', port = ''] = address.split(':');
  const socket = connect(Number(port), host);
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  return socket;
}

it.each(['breaks off', 'hangs up'])(
  'a debugger that waits until the last one has let the guest go, and %s, hinders nobody',
  async (how) => {
    let letGo = (): void => undefined;
    const isLetGo = new Promise<void>((resolve) => (letGo = resolve));
    let holds = 0;
    const machine: DebuggedMachine = {
      threads: [],
      memory: GuestMemory.create(0x1_0000),
      facilities: { int3: false, realModeInt3: false, registers: 0, watchpoints: false, steps: true },
      // The second one is the first debugger's goodbye.
      hold: () => (++holds === 2 ? isLetGo : Promise.resolve()),
      release: () => Promise.resolve(),
      kill: () => undefined,
    };
    const server = await GdbServer.listen({ listen: 0 }, () => undefined);
    try {
      server.serve(machine);
      const first = await caller(server.address);
      await expect.poll(() => holds).toBe(1);
      first.destroy();
      await expect.poll(() => holds).toBe(2);
      const second = await caller(server.address);
      await sleep(20);
      if (how === 'breaks off') second.resetAndDestroy();
      else second.destroy();
      await sleep(20);
      letGo();
      await sleep(20);
      using third = await gdbClient(server.address);
      expect(await third.ask('?')).toBe('T02thread:1;');
    } finally {
      await server.close();
    }
  },
);
