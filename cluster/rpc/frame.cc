#include "cluster/rpc/frame.h"

#include <algorithm>
#include <cctype>
#include <limits>

#include "cluster/base/checksum.h"

namespace trireme {
namespace {

constexpr std::string_view kMagic = "TRRM";
constexpr size_t kLengthOffset = 8;
constexpr size_t kChecksumOffset = 12;

void PutInteger(uint64_t value, int bytes, std::string* out) {
  for (int i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

uint64_t GetInteger(std::string_view text, size_t offset, int bytes) {
  uint64_t value = 0;
  for (int i = 0; i < bytes; ++i) {
    value |= uint64_t{static_cast<unsigned char>(text[offset + i])} << (8 * i);
  }
  return value;
}

// A hash of both hashes: the payload is not copied to stand beside the header.
uint64_t FrameChecksum(std::string_view prefix, std::string_view payload) {
  std::string both;
  PutInteger(Checksum64(prefix), 8, &both);
  PutInteger(Checksum64(payload), 8, &both);
  return Checksum64(std::string_view(both));
}

std::string Printable(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    text += std::isprint(static_cast<unsigned char>(c)) != 0 ? c : '.';
  }
  return text;
}

}  // namespace

std::string EncodeFrame(uint16_t type, std::string_view payload) {
  CHECK_LE(payload.size(), std::numeric_limits<uint32_t>::max());
  std::string frame;
  frame.reserve(kFrameHeaderBytes + payload.size());
  frame += kMagic;
  PutInteger(kFrameVersion, 2, &frame);
  PutInteger(type, 2, &frame);
  PutInteger(payload.size(), 4, &frame);
  PutInteger(FrameChecksum(frame, payload), 8, &frame);
  frame += payload;
  return frame;
}

Status FrameParser::CheckHeader() const {
  const std::string_view magic = std::string_view(buffer_).substr(0, kMagic.size());
  if (magic != kMagic) {
    return DataLossError(
        StrCat("not a Trireme peer: the frame starts with '", Printable(magic), "'"));
  }
  const uint64_t version = GetInteger(buffer_, 4, 2);
  if (version != kFrameVersion) {
    return DataLossError(
        StrCat("frame version ", version, ", this program speaks version ", kFrameVersion));
  }
  const uint64_t length = GetInteger(buffer_, kLengthOffset, 4);
  if (length > payload_bytes_max_) {
    return DataLossError(
        StrCat("a frame of ", length, " bytes, the limit is ", payload_bytes_max_));
  }
  return OkStatus();
}

Status FrameParser::Feed(std::string_view bytes, std::vector<Frame>* frames) {
  while (error_.ok()) {
    const size_t take = std::min(bytes.size(), need_ - buffer_.size());
    buffer_.append(bytes.substr(0, take));
    bytes.remove_prefix(take);
    // Garbage is told by its first four bytes: its sender may never send twenty.
    if (buffer_.size() >= kMagic.size() && buffer_.size() < kFrameHeaderBytes &&
        std::string_view(buffer_).substr(0, kMagic.size()) != kMagic) {
      error_ = CheckHeader();
      break;
    }
    if (buffer_.size() < need_) return OkStatus();
    if (need_ == kFrameHeaderBytes) {
      error_ = CheckHeader();
      if (!error_.ok()) break;
      need_ += GetInteger(buffer_, kLengthOffset, 4);
      if (need_ > kFrameHeaderBytes) continue;
    }
    const std::string_view all(buffer_);
    const std::string_view payload = all.substr(kFrameHeaderBytes);
    if (GetInteger(all, kChecksumOffset, 8) !=
        FrameChecksum(all.substr(0, kChecksumOffset), payload)) {
      error_ = DataLossError(StrCat("a frame of ", payload.size(), " bytes with a wrong checksum"));
      break;
    }
    frames->push_back({static_cast<uint16_t>(GetInteger(all, 6, 2)), std::string(payload)});
    buffer_.clear();
    need_ = kFrameHeaderBytes;
  }
  buffer_.clear();
  return error_;
}

}  // namespace trireme
