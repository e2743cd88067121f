#include "cluster/comm/process_memory.h"

#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <random>
#include <string>

#include "cluster/base/checksum.h"

namespace trireme {
namespace {

uint64_t NamespaceId(const char* path) {
  struct stat info = {};
  return stat(path, &info) == 0 ? static_cast<uint64_t>(info.st_ino) : 0;
}

uint64_t HostId() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  return Checksum64(StrCat(boot, " ", NamespaceId("/proc/self/ns/pid"), " ",
                           NamespaceId("/proc/self/ns/net"), " ", geteuid()));
}

}  // namespace

ProcessIdentity MyProcessIdentity() {
  static uint64_t cookie = (uint64_t{std::random_device()()} << 32) | std::random_device()();
  return {HostId(), getpid(), reinterpret_cast<uint64_t>(&cookie), cookie};
}

Status ReadProcessMemory(const ProcessIdentity& process, const StreamLayout& remote, int64_t begin,
                         int64_t end, std::byte* target, bool check) {
  constexpr int kRemoteMax = 64;
  while (begin < end) {
    uint64_t cookie = process.cookie;
    iovec from[kRemoteMax];
    from[0] = {reinterpret_cast<void*>(process.cookie_address), sizeof(cookie)};
    int count = 1;
    int64_t bytes = 0;
    while (begin + bytes < end && count < kRemoteMax) {
      const int64_t stop = std::min(end, remote.ContiguousEnd(begin + bytes));
      from[count++] = {remote.At(begin + bytes), static_cast<size_t>(stop - begin - bytes)};
      bytes = stop - begin;
    }
    const iovec to[2] = {{&cookie, sizeof(cookie)}, {target, static_cast<size_t>(bytes)}};
    const int first = check ? 0 : 1;
    const ssize_t expected = bytes + (check ? static_cast<ssize_t>(sizeof(cookie)) : 0);
    const ssize_t got = process_vm_readv(static_cast<pid_t>(process.pid), to + first, 2 - first,
                                         from + first, count - first, 0);
    if (got != expected || cookie != process.cookie) {
      return UnavailableError(
          StrCat("the memory of process ", process.pid, " cannot be read: ",
                 got < 0 ? std::strerror(errno) : "it has ended or given the memory up"));
    }
    begin += bytes;
    target += bytes;
  }
  return OkStatus();
}

}  // namespace trireme
