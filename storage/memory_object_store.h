// Memory stores that live as long as the process, by name.
#pragma once

#include <memory>
#include <string>

#include "storage/object_store.h"

namespace trireme {

// The store of that name; the same content every time it is opened in this process.
std::unique_ptr<ObjectStore> OpenNamedMemoryStore(const std::string& name);

}  // namespace trireme
