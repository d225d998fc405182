// What the host's kernel offers beside KVM for memory: advice.
// madvise(2).
import { checked } from './errors.js';
import { loadNative } from './native.js';

export type MemoryAdvice = 'MERGEABLE' | 'HUGEPAGE' | 'DONTNEED';

/**
 * madvise(2). MERGEABLE: KSM may merge equal pages. HUGEPAGE: back it by huge pages. DONTNEED: free the pages, which
 * read as zeros from then on.
 * @param memory whole pages
 * @throws KvmError (EINVAL for parts of pages, or when the host's kernel lacks the feature)
 */
export function advise(memory: Uint8Array, advice: MemoryAdvice): void {
  checked(loadNative().advise(memory, advice), 'madvise', `${memory.byteLength} bytes, ${advice}`);
}
