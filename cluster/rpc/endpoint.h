// Where a run's coordinator listens, and the secret that opens it: how workers find both.
#pragma once

#include <string>

#include "cluster/base/status.h"

namespace trireme {

struct Endpoint {
  std::string address;  // "host:port", or "[v6]:port"
  std::string secret;
};

// The file of a run: RUN_DIR/journal/coordinator.json.
std::string EndpointPath(const std::string& run_dir);

// Written whole and renamed into place, readable by its owner alone (0600).
Status WriteEndpoint(const std::string& path, const Endpoint& endpoint);
// kNotFound when there is no such file, kDataLoss when it is not an endpoint.
Result<Endpoint> ReadEndpoint(const std::string& path);

// The two halves of an address. kInvalidArgument names what is wrong with it.
Status SplitAddress(const std::string& address, std::string* host, uint16_t* port);

}  // namespace trireme
