// Guest RAM's face to JavaScript: files under it, and which pages are in use.
// Wrong use throws; what the kernel refuses is returned as -errno.
#include "ram-binding.h"

#include <unistd.h>

#include "arguments.h"
#include "guest-ram.h"
#include "handles.h"

namespace microvisor {

namespace {

// Pages are exchanged under the memory, so it must be one that nothing else lives in: whole pages, and shared.
Bytes RamOf(Napi::Value value) {
  Bytes memory = BytesOf(value, "the memory");
  if (memory.length == 0 || !memory.shared) throw Napi::TypeError::New(value.Env(), "the memory must be shared memory");
  return memory;
}

int Descriptor(Info info, size_t index) { return static_cast<int>(Integer(info, index, "the file descriptor", INT32_MAX)); }

}  // namespace

Napi::Value RamMap(Info info) {
  Bytes memory = RamOf(info[0]);
  uint64_t offset = Integer(info, 1, "the offset", kMaxSafeInteger);
  uint64_t length = Integer(info, 2, "the length", kMaxSafeInteger);
  uint64_t position = Integer(info, 4, "the position", kMaxSafeInteger);
  return Result(info, mv_ram_map(memory.data, memory.length, offset, length, Descriptor(info, 3), position));
}

Napi::Value RamGuard(Info info) {
  Bytes memory = RamOf(info[0]);
  return Result(info, mv_ram_guard(memory.data, memory.length, Descriptor(info, 1)));
}

Napi::Value RamClear(Info info) {
  Bytes memory = RamOf(info[0]);
  return Result(info, mv_ram_clear(memory.data, memory.length));
}

Napi::Value RamUsed(Info info) {
  Bytes memory = RamOf(info[0]);
  Bytes bitmap = PrivateBytes(info[1], "the bitmap");
  auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (bitmap.length < (memory.length / page + 7) / 8)
    throw Napi::RangeError::New(info.Env(), "the bitmap has fewer bits than the memory has pages");
  return Result(info, mv_ram_used(memory.data, memory.length, bitmap.data));
}

Napi::Value RamFile(Info info) { return Result(info, mv_ram_file(Text(info, 0, "the name").c_str())); }

Napi::Value RamSeal(Info info) { return Result(info, mv_ram_seal(Descriptor(info, 0))); }

}  // namespace microvisor
