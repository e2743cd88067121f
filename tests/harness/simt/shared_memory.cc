#include <simt/block.h>
#include <simt/shared_memory.h>

#include <algorithm>

#include "cluster/base/status.h"

namespace trireme::simt {
namespace {

constexpr int64_t kSharedBytesMax = 48 << 10;  // what a launch has without asking for more
constexpr size_t kReadersMax = 4096;           // remembered reads of an element, above which
                                               // repeated ones are dropped

// Of each thread's reads only the last one.
void KeepLatest(std::vector<AccessPoint>* readers) {
  std::stable_sort(readers->begin(), readers->end(),
                   [](const AccessPoint& a, const AccessPoint& b) { return a.thread < b.thread; });
  std::vector<AccessPoint> latest;
  for (const AccessPoint& reader : *readers) {
    if (latest.empty() || latest.back().thread != reader.thread) latest.push_back(reader);
    latest.back() = reader;
  }
  *readers = std::move(latest);
}

}  // namespace

SharedRecord::SharedRecord(const char* name, int64_t count, int64_t element_bytes)
    : name_(name),
      element_bytes_(element_bytes),
      data_(count * element_bytes, std::byte{0xff}),
      elements_(count) {}

void SharedRecord::CheckBounds(int64_t index) const {
  if (index >= 0 && index < static_cast<int64_t>(elements_.size())) return;
  Block::Current().Fail(
      StrCat("index ", index, " of shared array '", name_, "' of ", elements_.size(), " elements"));
}

void SharedRecord::Race(int64_t index, const char* now, const char* before, int thread) const {
  const Block& block = Block::Current();
  block.Fail(StrCat("race on shared array '", name_, "'[", index, "]: ", now, " what ",
                    block.ThreadName(thread), " ", before, ", no barrier between"));
}

const std::byte* SharedRecord::Read(int64_t index) {
  CheckBounds(index);
  Element& element = elements_[index];
  const Block& block = Block::Current();
  if (element.writer.thread < 0) {
    block.Fail(StrCat("shared array '", name_, "'[", index, "] is read before it is written"));
  }
  if (!block.HappenedBefore(element.writer)) Race(index, "reads", "wrote", element.writer.thread);
  const AccessPoint here = block.Here();
  if (element.reader_epoch != here.epoch) {
    element.readers.clear();  // a barrier lies between them and whoever writes next
    element.reader_epoch = here.epoch;
  }
  if (element.readers.empty() || element.readers.back().thread != here.thread) {
    if (element.readers.size() == kReadersMax) KeepLatest(&element.readers);
    element.readers.push_back(here);
  }
  element.readers.back() = here;
  return data_.data() + index * element_bytes_;
}

std::byte* SharedRecord::Write(int64_t index) {
  CheckBounds(index);
  Element& element = elements_[index];
  const Block& block = Block::Current();
  if (element.writer.thread >= 0 && !block.HappenedBefore(element.writer)) {
    Race(index, "writes", "wrote", element.writer.thread);
  }
  for (const AccessPoint& reader : element.readers) {
    if (!block.HappenedBefore(reader)) Race(index, "writes", "read", reader.thread);
  }
  element.readers.clear();
  element.writer = block.Here();
  return data_.data() + index * element_bytes_;
}

void SharedRecord::Forget() {
  std::fill(data_.begin(), data_.end(), std::byte{0xff});
  for (Element& element : elements_) {
    element.writer = AccessPoint();
    element.readers.clear();
    element.reader_epoch = 0;
  }
}

SharedRecord* SharedMemory::Array(const void* tag, const char* name, int64_t count,
                                  int64_t element_bytes) {
  for (const Entry& entry : arrays_) {
    if (entry.tag == tag) return entry.record.get();
  }
  arrays_.push_back({tag, std::make_unique<SharedRecord>(name, count, element_bytes)});
  bytes_ += (arrays_.back().record->bytes() + 15) / 16 * 16;
  if (bytes_ > kSharedBytesMax) {
    Block::Current().Fail(StrCat("shared array '", name, "' makes ", bytes_,
                                 " bytes of shared memory, more than ", kSharedBytesMax));
  }
  return arrays_.back().record.get();
}

void SharedMemory::Forget() {
  for (const Entry& entry : arrays_) entry.record->Forget();
}

SharedRecord* CurrentSharedArray(const void* tag, const char* name, int64_t count,
                                 int64_t element_bytes) {
  return Block::Current().shared().Array(tag, name, count, element_bytes);
}

}  // namespace trireme::simt
