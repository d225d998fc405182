// What the explorer's server takes from a page, and what it does not: the other side may be anybody who has the token.
import { describe, expect, it } from 'vitest';
import { MEMORY_BYTES_MAX, parseRequest, REQUEST_BYTES_MAX } from '../../../src/web/protocol.js';

const memory = { type: 'memory', id: 1, space: 'physical', vcpu: 0, address: '7c00', length: 256 };

describe('"hostile input from the page is validated"', () => {
  it.each([
    { type: 'input', text: 'ls\r' },
    { type: 'pause' },
    { type: 'resume' },
    { type: 'snapshot' },
    { type: 'step-exit', vcpu: 0 },
    { type: 'step-instruction', vcpu: 31 },
    { type: 'nmi', vcpu: 1 },
    memory,
    { ...memory, space: 'linear', address: 'FFFFffff81000000' },
    { type: 'walk', id: 2, vcpu: 0, address: '0' },
    { type: 'span', id: 3, from: 0, to: 1.5 },
  ])('takes %j', (request) => {
    expect(parseRequest(JSON.stringify(request))).toEqual(request);
  });

  it.each([
    'no JSON',
    '',
    'null',
    '[]',
    '7',
    '{}',
    JSON.stringify({ type: 'kill' }),
    JSON.stringify({ type: 'constructor' }),
    JSON.stringify({ type: 'input' }),
    JSON.stringify({ type: 'input', text: 7 }),
    JSON.stringify({ type: 'input', text: 'x'.repeat(REQUEST_BYTES_MAX + 1) }),
    JSON.stringify({ type: 'pause', more: 1 }),
    JSON.stringify({ type: 'snapshot', folder: '/etc' }),
    JSON.stringify({ type: 'nmi' }),
    JSON.stringify({ type: 'nmi', vcpu: -1 }),
    JSON.stringify({ type: 'nmi', vcpu: 32 }),
    JSON.stringify({ type: 'nmi', vcpu: 0.5 }),
    JSON.stringify({ ...memory, length: 0 }),
    JSON.stringify({ ...memory, length: MEMORY_BYTES_MAX + 1 }),
    JSON.stringify({ ...memory, address: '' }),
    JSON.stringify({ ...memory, address: '0x10' }),
    JSON.stringify({ ...memory, address: '1'.repeat(17) }),
    JSON.stringify({ ...memory, address: 16 }),
    JSON.stringify({ ...memory, space: 'host' }),
    JSON.stringify({ ...memory, id: undefined }),
    JSON.stringify({ type: 'span', id: 1, from: -1, to: 1 }),
    '{"type":"span","id":1,"from":0,"to":1e999}',
  ])('refuses %s', (text) => {
    expect(parseRequest(text)).toBeUndefined();
  });
});
