#include "worker/text/token_index.h"

#include "cluster/base/checksum.h"

namespace trireme {

TokenIndex::TokenIndex(const std::vector<std::string>& tokens, const std::vector<bool>& usable) {
  size_t slots = 2;
  while (slots < tokens.size() * 2 + 2) slots *= 2;
  slots_.resize(slots);
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (!usable[id] || Find(tokens[id]) >= 0) continue;
    const auto hash = static_cast<uint32_t>(Checksum64(tokens[id]));
    size_t at = hash & (slots - 1);
    while (slots_[at].id >= 0) at = (at + 1) & (slots - 1);
    slots_[at] = {hash, static_cast<int32_t>(id), bytes_.size(),
                  static_cast<uint32_t>(tokens[id].size())};
    bytes_ += tokens[id];
  }
}

int32_t TokenIndex::Find(std::string_view bytes) const {
  if (slots_.empty()) return -1;
  const auto hash = static_cast<uint32_t>(Checksum64(bytes));
  for (size_t at = hash & (slots_.size() - 1);; at = (at + 1) & (slots_.size() - 1)) {
    const Slot& slot = slots_[at];
    if (slot.id < 0) return -1;
    if (slot.hash == hash && slot.size == bytes.size() &&
        std::string_view(bytes_).substr(slot.begin, slot.size) == bytes) {
      return slot.id;
    }
  }
}

}  // namespace trireme
