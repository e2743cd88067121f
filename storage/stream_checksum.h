// XXH3, 64 bits, fed in pieces: equal to Checksum64 of all the bytes together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace trireme {

class StreamChecksum {
 public:
  StreamChecksum();
  ~StreamChecksum();
  StreamChecksum(const StreamChecksum&) = delete;
  StreamChecksum& operator=(const StreamChecksum&) = delete;

  void Update(std::span<const std::byte> bytes);
  uint64_t Value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace trireme
