#include <glog/logging.h>
#include <signal.h>
#include <simt/block.h>
#include <simt/device_memory.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace trireme::simt {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlign = 16;
constexpr unsigned char kUnwritten = 0xff;

struct Allocation {
  char* map;         // whole pages, then the page that nobody may touch
  size_t map_bytes;  // without that page
  char* data;
  size_t bytes;
};

struct DeviceMemory {
  std::mutex mutex;
  std::map<const char*, Allocation> by_end;  // by the address behind the unreadable page
  int accesses = 0;
  int64_t bytes = 0;
  struct sigaction old_handler {};

  // The allocation whose pages hold p.
  const Allocation* Find(const void* p) const {
    const auto next = by_end.upper_bound(static_cast<const char*>(p));
    if (next == by_end.end() || p < next->second.map) return nullptr;
    return &next->second;
  }
};

DeviceMemory& Memory() {
  static auto* memory = new DeviceMemory;
  return *memory;
}

void Protect(const Allocation& allocation, int protection) {
  CHECK_EQ(mprotect(allocation.map, allocation.map_bytes, protection), 0);
}

// A line to stderr, then what the process would have done without us. The map is read without its
// lock, which the interrupted thread may hold.
void OnFault(int signal, siginfo_t* info, void*) {
  const DeviceMemory& memory = Memory();
  const auto* address = static_cast<const char*>(info->si_addr);
  if (const Allocation* allocation = memory.Find(address)) {
    char line[512];
    const long offset = static_cast<long>(address - allocation->data);
    if (Block::Running()) {
      const Block& block = Block::Current();
      snprintf(line, sizeof(line),
               "simt: byte %ld of a device allocation of %zu bytes is touched, %s\n", offset,
               allocation->bytes, block.Where().c_str());
    } else {
      snprintf(line, sizeof(line),
               "simt: the host touched byte %ld of a device allocation of %zu bytes\n", offset,
               allocation->bytes);
    }
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line, strlen(line));
  }
  sigaction(signal, &memory.old_handler, nullptr);  // the access faults again
}

void InstallHandler(DeviceMemory* memory) {
  struct sigaction action {};
  action.sa_sigaction = OnFault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  CHECK_EQ(sigaction(SIGSEGV, &action, &memory->old_handler), 0);
}

bool Untouched(const char* begin, const char* end) {
  for (; begin < end; ++begin) {
    if (static_cast<unsigned char>(*begin) != kUnwritten) return false;
  }
  return true;
}

}  // namespace

void* AllocateDeviceMemory(size_t bytes) {
  DeviceMemory& memory = Memory();
  static std::once_flag installed;
  std::call_once(installed, [&] { InstallHandler(&memory); });
  const size_t rounded = (bytes + kAlign - 1) / kAlign * kAlign;
  const size_t map_bytes = std::max(kPage, (rounded + kPage - 1) / kPage * kPage);
  void* map = mmap(nullptr, map_bytes + kPage, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return nullptr;
#if defined(__SANITIZE_ADDRESS__)
  // A stack of a thread that is gone may have lain here, and left its marks.
  ASAN_UNPOISON_MEMORY_REGION(map, map_bytes + kPage);
#endif
  auto* begin = static_cast<char*>(map);
  const Allocation allocation{begin, map_bytes, begin + map_bytes - rounded, bytes};
  Protect(allocation, PROT_READ | PROT_WRITE);
  memset(begin, kUnwritten, map_bytes);
  const std::lock_guard lock(memory.mutex);
  if (memory.accesses == 0) Protect(allocation, PROT_NONE);
  memory.by_end[begin + map_bytes + kPage] = allocation;
  memory.bytes += static_cast<int64_t>(bytes);
  return allocation.data;
}

bool FreeDeviceMemory(void* p) {
  DeviceMemory& memory = Memory();
  const std::lock_guard lock(memory.mutex);
  const Allocation* found = memory.Find(p);
  if (found == nullptr || found->data != p) return false;
  const Allocation allocation = *found;
  Protect(allocation, PROT_READ | PROT_WRITE);
  CHECK(Untouched(allocation.map, allocation.data) &&
        Untouched(allocation.data + allocation.bytes, allocation.map + allocation.map_bytes))
      << "simt: bytes around a device allocation of " << allocation.bytes << " bytes were written";
  memory.by_end.erase(allocation.map + allocation.map_bytes + kPage);
  memory.bytes -= static_cast<int64_t>(allocation.bytes);
  munmap(allocation.map, allocation.map_bytes + kPage);
  return true;
}

bool IsDeviceMemory(const void* p, size_t bytes) {
  DeviceMemory& memory = Memory();
  const std::lock_guard lock(memory.mutex);
  const Allocation* found = memory.Find(p);
  const auto* begin = static_cast<const char*>(p);
  return found != nullptr && begin >= found->data && begin + bytes <= found->data + found->bytes;
}

int64_t DeviceBytes() {
  DeviceMemory& memory = Memory();
  const std::lock_guard lock(memory.mutex);
  return memory.bytes;
}

DeviceAccess::DeviceAccess() {
  DeviceMemory& memory = Memory();
  const std::lock_guard lock(memory.mutex);
  if (memory.accesses++ > 0) return;
  for (const auto& [end, allocation] : memory.by_end) Protect(allocation, PROT_READ | PROT_WRITE);
}

DeviceAccess::~DeviceAccess() {
  DeviceMemory& memory = Memory();
  const std::lock_guard lock(memory.mutex);
  if (--memory.accesses > 0) return;
  for (const auto& [end, allocation] : memory.by_end) Protect(allocation, PROT_NONE);
}

}  // namespace trireme::simt
