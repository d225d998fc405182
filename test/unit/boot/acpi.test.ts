// The ACPI tables: found, linked and summed as the specification says, and accepted by Intel's own compiler.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eisaId, integer, packageOf, scope, named, string } from '../../../src/boot/acpi/aml.js';
import { type AcpiTable, acpiTables } from '../../../src/boot/acpi/tables.js';
import { byteSum } from '../../../src/boot/checksum.js';
import { boot, bootError } from '../../support/boot.js';
import { programsMissing } from '../../support/programs.js';

const DEVICES = Array.from({ length: 20 }, (_, i) => ({
  base: 0xd000_0000 + i * 0x1000,
  size: 0x1000,
  gsi: 10 + (i % 14),
}));
const TABLES = acpiTables({ cpus: 4, devices: DEVICES });

function bytesOf(signature: string, tables: readonly AcpiTable[] = TABLES): Uint8Array {
  const table = tables.find((table) => table.signature === signature);
  if (table === undefined) throw new Error(`no ${signature} among the tables`);
  return table.bytes;
}

function viewOf(signature: string): DataView {
  const bytes = bytesOf(signature);
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

describe('the tables', () => {
  it('"the entire table, including the checksum field, must add to zero"', () => {
    for (const { signature, bytes } of TABLES) {
      if (signature === 'FACS') continue;
      expect(byteSum(bytes), signature).toBe(0);
      if (signature !== 'RSDP')
        expect(new DataView(bytes.buffer, bytes.byteOffset).getUint32(4, true)).toBe(bytes.length);
    }
  });

  it('RSDP: "\'RSD PTR \'", "on 16-byte boundaries" from 0E0000h, "the first 20 bytes … must sum to zero"', () => {
    const bytes = bytesOf('RSDP');
    expect(Buffer.from(bytes.subarray(0, 8)).toString()).toBe('RSD PTR ');
    expect(TABLES[0]).toMatchObject({ signature: 'RSDP', base: 0xe_0000 });
    expect(byteSum(bytes.subarray(0, 20))).toBe(0);
    expect(bytes[15]).toBe(2);
  });

  it('lead from one to the next: RSDP, XSDT, FADT and MADT, DSDT and FACS', () => {
    const at = (gpa: bigint | number) => TABLES.find(({ base }) => base === Number(gpa))?.signature;
    expect(at(viewOf('RSDP').getBigUint64(24, true))).toBe('XSDT');
    const xsdt = viewOf('XSDT');
    expect([at(xsdt.getBigUint64(36, true)), at(xsdt.getBigUint64(44, true))]).toEqual(['FACP', 'APIC']);
    const fadt = viewOf('FACP');
    expect([at(fadt.getUint32(36, true)), at(fadt.getUint32(40, true)), at(fadt.getBigUint64(140, true))]).toEqual([
      'FACS',
      'DSDT',
      'DSDT',
    ]);
  });

  it('FACS: "aligned on a 64-byte boundary"; no two tables overlap', () => {
    expect((TABLES.find(({ signature }) => signature === 'FACS')?.base ?? 1) % 64).toBe(0);
    for (const [i, { base, signature }] of TABLES.entries()) {
      const previous = TABLES[i - 1];
      if (previous) expect(base, signature).toBeGreaterThanOrEqual(previous.base + previous.bytes.length);
    }
  });

  it("FADT: the machine's PM1a blocks and reset register, no SMI command port, not hardware-reduced", () => {
    const fadt = viewOf('FACP');
    expect([fadt.getUint32(48, true), fadt.getUint32(56, true), fadt.getUint32(64, true)]).toEqual([0, 0x600, 0x604]);
    expect([fadt.getUint8(88), fadt.getUint8(89), fadt.getUint16(46, true)]).toEqual([4, 2, 9]);
    expect([fadt.getUint8(116), fadt.getUint8(117), Number(fadt.getBigUint64(120, true)), fadt.getUint8(128)]).toEqual([
      1, 8, 0x608, 0x0f,
    ]);
    const flags = fadt.getUint32(112, true);
    expect(flags & (1 << 10)).not.toBe(0);
    expect(flags & (1 << 20)).toBe(0);
  });

  it('MADT: a local APIC for each processor, the IOAPIC at GSI 0, the SCI edge-triggered and active-high', () => {
    const madt = bytesOf('APIC');
    const entries: number[][] = [];
    for (let at = 44; at < madt.length; at += madt[at + 1] ?? madt.length)
      entries.push([...madt.subarray(at, at + (madt[at + 1] ?? 0))]);
    expect(entries.filter(([type]) => type === 0)).toEqual([0, 1, 2, 3].map((id) => [0, 8, id, id, 1, 0, 0, 0]));
    expect(entries.filter(([type]) => type === 1)).toEqual([[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]]);
    expect(entries.filter(([type]) => type === 2)).toEqual([[2, 10, 0, 9, 9, 0, 0, 0, 0x05, 0]]);
  });

  it('says so when there are more devices than room', () => {
    const devices = Array.from({ length: 3000 }, () => ({ base: 0xd000_0000, size: 0x1000, gsi: 10 }));
    expect(bootError(() => acpiTables({ cpus: 1, devices: devices.slice(0, 3000) })).field).toBe('devices');
  });

  it('lie in guest memory where they say', () => {
    const { memory } = boot(Uint8Array.of(0xf4), { entry: 'protected', firmware: 'acpi', cpus: 4, devices: DEVICES });
    for (const { base, bytes } of TABLES) expect(memory.read(base, bytes.length)).toEqual(bytes);
    expect(memory.readU32(0x9_fc00)).toBe(0);
  });
});

describe('AML', () => {
  it('"EISAID" packs PNP0501 as 0x0105D041', () => {
    expect([...eisaId('PNP0501')]).toEqual([0x0c, 0x41, 0xd0, 0x05, 0x01]);
  });

  it('writes an integer in the fewest bytes', () => {
    const encodings: readonly (readonly [number, readonly number[]])[] = [
      [0, [0]],
      [1, [1]],
      [2, [0x0a, 2]],
      [0x100, [0x0b, 0, 1]],
      [0x1_0000, [0x0c, 0, 0, 1, 0]],
      [0xffff_ffff, [0x0c, 0xff, 0xff, 0xff, 0xff]],
    ];
    for (const [value, bytes] of encodings) expect([...integer(value)]).toEqual(bytes);
    expect(() => integer(2 ** 32)).toThrow(RangeError);
    expect(() => integer(Number.NaN)).toThrow(RangeError);
  });

  it('PkgLength counts itself, in one to four bytes', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 70_000 }), (length) => {
        const bytes = scope('\\_SB', named('X', string('a'.repeat(length))));
        const lead = bytes[1] ?? 0;
        const following = lead >>> 6;
        let encoded = following === 0 ? lead & 0x3f : lead & 0xf;
        for (let i = 0; i < following; i++) encoded |= (bytes[2 + i] ?? 0) << (4 + 8 * i);
        expect(encoded).toBe(bytes.length - 1);
      }),
      { numRuns: 200 },
    );
  });

  it('refuses names and ids that AML cannot hold', () => {
    expect(() => named('TOOLONG', integer(1))).toThrow(RangeError);
    expect(() => eisaId('PNP05')).toThrow(RangeError);
    expect([...packageOf(integer(5), integer(0))]).toEqual([0x12, 5, 2, 0x0a, 5, 0]);
  });
});

const noIasl = programsMissing('iasl');

describe.skipIf(noIasl !== undefined)('iasl', () => {
  let folder = '';
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'microvisor-acpi-'));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it.each(['DSDT', 'FACP', 'APIC', 'XSDT', 'FACS'])(
    'disassembles our %s and compiles it again without errors',
    (signature) => {
      const name = signature.toLowerCase();
      writeFileSync(join(folder, `${name}.aml`), bytesOf(signature));
      const run = (...options: string[]) =>
        execFileSync('iasl', options, { cwd: folder, encoding: 'utf8', stdio: 'pipe' });
      const disassembly = run('-d', `${name}.aml`);
      const source = readFileSync(join(folder, `${name}.dsl`), 'utf8');
      expect(disassembly + source).not.toMatch(/\b(error|invalid|incorrect|unknown)\b/i);
      expect(run('-p', `${name}-again`, `${name}.dsl`)).toMatch(
        signature === 'DSDT' ? /\b0 Errors, 0 Warnings/ : /Compilation successful/,
      );
    },
  );

  it('finds COM1, COM2, the clock, each virtio device and \\_S5 in the DSDT', () => {
    writeFileSync(join(folder, 'names.aml'), bytesOf('DSDT'));
    execFileSync('iasl', ['-d', 'names.aml'], { cwd: folder, stdio: 'pipe' });
    const source = readFileSync(join(folder, 'names.dsl'), 'utf8');
    expect(source.match(/EisaId \("PNP0501"\)/g)).toHaveLength(2);
    expect(source).toMatch(/EisaId \("PNP0B00"\)/);
    expect(source.match(/"LNRO0005"/g)).toHaveLength(DEVICES.length);
    // One more is the generic event device's.
    expect(source.match(/Interrupt \(ResourceConsumer, Edge, ActiveHigh, Exclusive/g)).toHaveLength(DEVICES.length + 1);
    expect(source).toMatch(/Name \(_?\\?_S5/);
  });

  it('finds the VM generation ID, and the event that tells of a new one', () => {
    writeFileSync(join(folder, 'generation.aml'), bytesOf('DSDT'));
    execFileSync('iasl', ['-d', 'generation.aml'], { cwd: folder, stdio: 'pipe' });
    const source = readFileSync(join(folder, 'generation.dsl'), 'utf8');
    const device = /Device \(VGEN\)[^]*?Name \(ADDR, Package \(0x02\)[^{]*\{\s*0x000FF000,\s*Zero\s*\}/;
    expect(device.exec(source)?.[0]).toMatch(/Name \(_CID, "VM_Gen_Counter"\)/);
    const event = /Device \(GED\)[^]*?Method \(_EVT, 1, Serialized\)[^{]*\{[^}]*\}/.exec(source)?.[0];
    expect(event).toMatch(/Name \(_HID, "ACPI0013"/);
    expect(event).toMatch(/0x00000017,/);
    expect(event).toMatch(/Notify \(VGEN, 0x80\)/);
  });
});
