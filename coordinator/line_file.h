// A file of lines that only grows, and survives a full disk without a torn line in its middle.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "cluster/base/status.h"

namespace trireme {

class LineFile {
 public:
  LineFile() = default;
  ~LineFile();
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;

  // Opens for appending; a last line without its line end (a crash while writing) is cut off.
  Status Open(const std::string& path);
  // Adds `line` and a line end. When the disk takes no more, the line waits in memory (the oldest
  // of more than 100,000 is dropped) and goes first at the next call; a line on stderr says so
  // once, and another at the end when lines are lost.
  void Append(const std::string& line);
  // Everything so far is on the disk, as far as it takes it.
  void Sync();

 private:
  bool WriteFront();

  std::string path_;
  int file_ = -1;
  int64_t size_ = 0;  // of whole lines
  bool failing_ = false;
  std::deque<std::string> waiting_;
};

}  // namespace trireme
