#include "cluster/base/version.h"

namespace trireme {

const char* ProgramVersion() { return TRIREME_VERSION; }
std::string ProgramName() { return std::string("trireme ") + ProgramVersion(); }

}  // namespace trireme
