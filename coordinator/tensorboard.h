// TensorBoard's event files: TFRecord framing (length, masked CRC-32C of it, data, masked CRC-32C
// of the data) around Event messages with scalars.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cluster/base/status.h"

namespace trireme {

// CRC-32C (Castagnoli), RFC 3720.
uint32_t Crc32c(std::string_view bytes);
// A record as it stands in the file.
std::string TfRecord(std::string_view data);
// tensorflow.Event with a Summary of simple values.
std::string ScalarEvent(double wall_seconds, int64_t step,
                        const std::vector<std::pair<std::string, double>>& scalars);

class TensorBoardFile {
 public:
  ~TensorBoardFile();
  // Creates FOLDER/events.out.tfevents.SECONDS.HOST.GENERATION with its version record. A file that
  // cannot be written is told once in the log; training does not depend on it.
  void Open(const std::string& folder, double wall_seconds, uint64_t generation);
  void Write(double wall_seconds, int64_t step,
             const std::vector<std::pair<std::string, double>>& scalars);

 private:
  void Append(const std::string& record);
  std::string path_;
  int file_ = -1;
};

}  // namespace trireme
