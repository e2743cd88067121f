#include "coordinator/tensorboard.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>

namespace trireme {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // reflected
constexpr uint32_t kMaskDelta = 0xa282ead8;   // of TFRecord

constexpr std::array<uint32_t, 256> MakeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    table[i] = crc;
  }
  return table;
}

void PutFixed(uint64_t value, int bytes, std::string* out) {
  for (int i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

void PutVarint(uint64_t value, std::string* out) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>(value | 0x80));
  out->push_back(static_cast<char>(value));
}

// Protobuf's wire format by hand: the schema is TensorFlow's, and four fields of it are used.
enum WireType { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void PutTag(int field, WireType type, std::string* out) {
  PutVarint(static_cast<uint64_t>(field) << 3 | type, out);
}

void PutBytes(int field, std::string_view bytes, std::string* out) {
  PutTag(field, kBytes, out);
  PutVarint(bytes.size(), out);
  *out += bytes;
}

std::string EventHead(double wall_seconds, int64_t step) {
  std::string event;
  PutTag(1, kFixed64, &event);
  PutFixed(std::bit_cast<uint64_t>(wall_seconds), 8, &event);
  PutTag(2, kVarint, &event);
  PutVarint(static_cast<uint64_t>(step), &event);
  return event;
}

uint32_t Masked(uint32_t crc) { return std::rotr(crc, 15) + kMaskDelta; }

}  // namespace

uint32_t Crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = MakeTable();
  uint32_t crc = ~uint32_t{0};
  for (const char c : bytes) crc = kTable[(crc ^ static_cast<unsigned char>(c)) & 255] ^ (crc >> 8);
  return ~crc;
}

std::string TfRecord(std::string_view data) {
  std::string record;
  PutFixed(data.size(), 8, &record);
  PutFixed(Masked(Crc32c(record)), 4, &record);
  record += data;
  PutFixed(Masked(Crc32c(data)), 4, &record);
  return record;
}

std::string ScalarEvent(double wall_seconds, int64_t step,
                        const std::vector<std::pair<std::string, double>>& scalars) {
  std::string summary;
  for (const auto& [tag, scalar] : scalars) {
    std::string value;
    PutBytes(1, tag, &value);
    PutTag(2, kFixed32, &value);
    PutFixed(std::bit_cast<uint32_t>(static_cast<float>(scalar)), 4, &value);
    PutBytes(1, value, &summary);
  }
  std::string event = EventHead(wall_seconds, step);
  PutBytes(5, summary, &event);
  return event;
}

TensorBoardFile::~TensorBoardFile() {
  if (file_ >= 0) close(file_);
}

void TensorBoardFile::Open(const std::string& folder, double wall_seconds, uint64_t generation) {
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  char host[256] = "localhost";
  gethostname(host, sizeof(host) - 1);
  path_ = StrCat(folder, "/events.out.tfevents.", static_cast<int64_t>(wall_seconds), ".", host,
                 ".", generation);
  file_ = open(path_.c_str(), O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0644);
  if (file_ < 0) {
    LOG(ERROR) << path_ << ": " << strerror(errno);
    return;
  }
  std::string version = EventHead(wall_seconds, 0);
  PutBytes(3, "brain.Event:2", &version);
  Append(TfRecord(version));
}

void TensorBoardFile::Write(double wall_seconds, int64_t step,
                            const std::vector<std::pair<std::string, double>>& scalars) {
  Append(TfRecord(ScalarEvent(wall_seconds, step, scalars)));
}

void TensorBoardFile::Append(const std::string& record) {
  if (file_ < 0) return;
  if (write(file_, record.data(), record.size()) == static_cast<ssize_t>(record.size())) return;
  LOG(ERROR) << path_ << ": " << strerror(errno) << "; no more scalars for TensorBoard";
  close(file_);
  file_ = -1;
}

}  // namespace trireme
