// The fake device's memory: out of reach of the host (PROT_NONE) but while the device works, with
// an unreadable page behind each allocation. A host or a kernel that goes where it must not crashes
// with one line that says where.
#pragma once

#include <cstddef>
#include <cstdint>

namespace trireme::simt {

// 16-byte aligned, its end within 15 bytes of the unreadable page. Content: bytes 0xff (NaN as a
// float or bfloat16). Null when there is no memory. Thread-safe, as all of these.
void* AllocateDeviceMemory(size_t bytes);
// False when p is not the start of an allocation. Ends the process when bytes around the allocation
// were written.
bool FreeDeviceMemory(void* p);
// Whether all of [p, p + bytes) lies in one allocation.
bool IsDeviceMemory(const void* p, size_t bytes);
// Of all allocations that are alive.
int64_t DeviceBytes();

// Device memory can be touched while one of these exists. They nest and may overlap in time.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace trireme::simt
