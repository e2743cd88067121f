// What a Work holds: an operation of some implementation of Communicator.
#pragma once

#include <memory>
#include <string>

#include "cluster/comm/communicator.h"

namespace trireme {

class Work::State {
 public:
  virtual ~State() = default;
  virtual bool Test() = 0;
  virtual Status Wait(Micros timeout) = 0;
  // Work::Follow; the results are there when a Wait for the host's memory ends.
  virtual Status Follow(Stream& stream, Micros timeout) { return Wait(timeout); }
  virtual void Abandon(std::shared_ptr<void> keep_alive) = 0;
  virtual std::string Describe() const = 0;  // "AllReduce 12 of group ...", for messages
  virtual std::string DescribeWait(Micros waited) = 0;
};

}  // namespace trireme
