#pragma once

#include <string>

namespace trireme {

// "0.1.0", as CMakeLists.txt has it.
const char* ProgramVersion();
// "trireme 0.1.0", as --version prints it.
std::string ProgramName();

}  // namespace trireme
