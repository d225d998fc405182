// The virtio console and the entropy device, used by a real Linux guest.
import { createHash } from 'node:crypto';
import { beforeAll, describe, expect, test } from 'vitest';
import { createVm, type Vm, type VmConfig } from '../../src/index.js';
import { countedLines } from '../support/counted-lines.js';
import { noKvm } from '../support/kvm.js';
import { BOOT_MS, emulatesKernelCode, guestConfig, PREPARE_MS } from '../support/linux.js';
import { amount } from '../support/soak.js';

let guest: Pick<VmConfig, 'kernel' | 'initrd' | 'cmdline'>;
beforeAll(async () => {
  if (!noKvm) guest = await guestConfig('small');
}, PREPARE_MS);

/** Where kernel code is emulated a guest prints some 20 KB a second, and its input is slower still. */
const isSlow = emulatesKernelCode();
const OUTPUT = countedLines(amount(isSlow ? 128 << 10 : 1 << 20, 1 << 20));
const INPUT_BYTES = amount(isSlow ? 16 << 10 : 64 << 10, 64 << 10);

/** The shell asks a terminal for its cursor's place after it. */
const PROMPT = /[#$] /;

/** Every byte value, in an order without a short period. */
function pattern(bytes: number): Uint8Array {
  let state = 1;
  return Uint8Array.from({ length: bytes }, () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return state >>> 16;
  });
}

/** Everything that a stream gives from now on; the result waits until what came since the last wait is enough. */
function collect(stream: NodeJS.ReadableStream): (isEnough: (text: string) => boolean) => Promise<string> {
  let text = '';
  let check = (): void => undefined;
  stream.on('data', (chunk: Uint8Array) => {
    text += Buffer.from(chunk).toString('latin1');
    check();
  });
  return (isEnough) =>
    new Promise((resolve) => {
      check = () => {
        if (!isEnough(text)) return;
        resolve(text);
        text = '';
        check = () => undefined;
      };
      check();
    });
}

const READY = 'crng init done';

/** A kernel without any source of entropy but the device: this entry hands it no seed, and it trusts no processor. */
const unseeded = (): VmConfig => ({
  ...guest,
  entry: 'pvh',
  cmdline: `${(guest.cmdline ?? '').replace('random.trust_cpu=on', '')} random.trust_cpu=off random.trust_bootloader=off`,
});

/**
 * A descriptor of its own keeps the settings of the line from one command to the next; and what writes to a terminal itself
 * does so line by line, which on a slow host takes minutes.
 */
const BOTH_WAYS = `
cat /sys/class/misc/hw_random/rng_current
head -c 512 /dev/hwrng >/tmp/a; head -c 512 /dev/hwrng >/tmp/b
cmp -s /tmp/a /tmp/b && echo same; echo bytes $(wc -c </tmp/a)
i=0; until dmesg | grep -q "${READY}"; do i=$((i+1)); [ $i -lt 50 ] || break; sleep 0.2; done
dmesg | grep -o "${READY}"
exec 3<>/dev/hvc0
stty raw -opost -echo <&3
echo size $(stty size <&3)
echo ready
dd bs=1024 count=${INPUT_BYTES / 1024} iflag=fullblock <&3 2>/dev/null | tee /tmp/input | sha256sum
${OUTPUT.command} | cat - /tmp/input >&3
echo resize
until [ "$(stty size <&3)" = "43 132" ]; do sleep 0.2; done
echo size $(stty size <&3)
`;

async function bothWays(cpus: number): Promise<void> {
  await using vm: Vm = await createVm({
    ...unseeded(),
    cpus,
    appendQuirkOptions: true,
    console: 'virtio',
    consoleOverflow: 'wait',
    entropy: true,
    exec: { argv: ['sh', '-c', BOTH_WAYS] },
  });
  vm.resizeConsole(100, 30);
  vm.serial.output.resume();
  const hash = createHash('sha256');
  let bytes = 0;
  vm.console.output.on('data', (chunk: Uint8Array) => {
    hash.update(chunk);
    bytes += chunk.length;
  });
  const input = pattern(INPUT_BYTES);
  const sent = createHash('sha256').update(input).digest('hex');
  const stdout = vm.exec?.stdout ?? expect.fail('no exec channel');
  vm.exec?.stderr.resume();
  const said = collect(stdout);
  await vm.start();
  const first = await said((text) => text.includes('ready\n'));
  expect(first).toContain(`virtio_rng.0\nbytes 512\n${READY}\nsize 30 100\n`);
  vm.console.input.write(input);
  const second = await said((text) => text.includes('resize\n'));
  vm.resizeConsole(132, 43);
  expect(second).toContain(sent);
  const last = await said((text) => text.includes('size 43 132\n'));
  expect(last).toContain('size 43 132');
  expect(await vm.outcome).toEqual({ kind: 'command', status: 0 });
  // Many bytes, and every byte there is.
  const expected = Buffer.concat([OUTPUT.bytes, input]);
  expect({ bytes, hash: hash.digest('hex') }).toEqual({
    bytes: expected.length,
    hash: createHash('sha256').update(expected).digest('hex'),
  });
  const [, entropy] = vm.report().virtio;
  expect(entropy).toMatchObject({ name: 'entropy', dropped: 0, needsReset: 0 });
  // A queue kick never leaves the kernel: QueueNotify is in no vCPU's exits.
  const notified = vm.report().vcpus.flatMap(({ mmio }) => mmio.filter(({ address }) => (address & 0xfff) === 0x50));
  expect(notified).toEqual([]);
}

describe.skipIf(noKvm)('the console and the entropy device', () => {
  test.each([1, 2])(
    `"1 MiB of output byte-exact" (${OUTPUT.bytes.length >> 10} KiB), "resize seen by \`stty size\`"; "/dev/hwrng gives bytes; the ` +
      'kernel reports its pool initialised by it", with %i vCPUs',
    bothWays,
    2 * BOOT_MS,
  );

  // With 1 vCPU it is in cli.test.ts, on a terminal.
  test(
    '"hvc0 login shell", with 2 vCPUs',
    async () => {
      await using vm = await createVm({
        ...guest,
        cpus: 2,
        cmdline: (guest.cmdline ?? '').replace('console=ttyS0', 'console=hvc0'),
        appendQuirkOptions: true,
        console: 'virtio',
      });
      vm.serial.output.resume();
      const said = collect(vm.console.output);
      await vm.start();
      await said((text) => PROMPT.test(text));
      vm.console.input.write('tty; echo $((6 * 7))\n');
      const answer = await said((text) => /\n42\r?\n[^]*[#$] /.test(text));
      expect(answer).toContain('/dev/hvc0');
      vm.console.input.write('poweroff\n');
      expect(await vm.outcome).toEqual({ kind: 'power-off' });
    },
    2 * BOOT_MS,
  );

  test(
    '"a reader of the console that stops reading: … the VM lives … and it works again when the cause is gone"; without ' +
      'the entropy device the kernel does not report its pool initialised: it was the device',
    async () => {
      // More than all that is kept.
      const printed = (1 << 20) + (256 << 10);
      await using vm = await createVm({
        ...unseeded(),
        appendQuirkOptions: true,
        console: 'virtio',
        consoleOverflow: 'drop',
        exec: {
          argv: [
            'sh',
            '-c',
            `echo pool $(dmesg | grep -c "${READY}"); exec 3<>/dev/hvc0; stty raw -opost -echo <&3; head -c ${printed} /dev/zero >&3; echo printed; read x; echo again >&3`,
          ],
        },
      });
      vm.serial.output.resume();
      const stdout = vm.exec?.stdout ?? expect.fail('no exec channel');
      vm.exec?.stderr.resume();
      const said = collect(stdout);
      await vm.start();
      expect(await said((text) => text.includes('printed\n'))).toContain('pool 0\n');
      const { reader, port } = vm.report().consoleLost;
      expect(port).toBe(0);
      expect(reader).toBeGreaterThan(0);
      const heard = collect(vm.console.output);
      vm.exec?.stdin.end('go\n');
      const all = await heard((text) => text.endsWith('again\n'));
      expect(all.length + vm.report().consoleLost.reader).toBe(printed + 'again\n'.length);
      expect(await vm.outcome).toEqual({ kind: 'command', status: 0 });
    },
    BOOT_MS,
  );
});
