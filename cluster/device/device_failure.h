#pragma once

#include <string>

namespace trireme {

// Ends the process with `what` as one line on stderr and exit code 1, without destructors: after an
// error of the device they would wait for work that never ends. The line also goes to the log file
// where there is one.
[[noreturn]] void EndByDeviceFailure(const std::string& what);

}  // namespace trireme
