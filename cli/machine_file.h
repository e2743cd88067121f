// The description of a machine that is not here: what `trireme plan --machine` reckons with.
#pragma once

#include <map>
#include <string>

#include "cluster/base/status.h"
#include "cluster/device/dtype.h"

namespace trireme {

// One worker's device: rates in bytes or FLOP a second, each way where it is a link's.
struct MachineFile {
  std::string name;
  std::map<DType, double> peak_flop;  // of dense products, by the type of their operands
  double memory_bytes_per_second = 0;
  int64_t memory_bytes = 0;
  double link_bytes_per_second = 0;     // to devices of the host
  double network_bytes_per_second = 0;  // to devices of other hosts
  int64_t program_bytes = 0;            // taken before a tensor is made
  // Shares of the peaks that are expected; 1 where the file does not say. Attention: of heads of up
  // to 64, and of 128 and more ("wide"; as the others where the file does not say).
  double reach_products = 1;
  double reach_attention_forward = 1, reach_wide_attention_forward = 0;
  double reach_attention_backward = 1, reach_wide_attention_backward = 0;
  double reach_memory = 1, reach_optimizer = 0;  // optimizer: as memory where the file does not say
};

// examples/machines/h100.yaml shows all keys. kInvalidArgument with file, line, key and what was
// expected; every key but `reach` and `program_gib` must be there.
Result<MachineFile> ReadMachineFile(const std::string& path);

}  // namespace trireme
