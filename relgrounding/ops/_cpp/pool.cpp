// Where the threads come from.
#include "parallel.h"

StartThreads start_threads = nullptr;
ThreadNumber thread_number = nullptr;

extern "C" void set_pool(StartThreads start, ThreadNumber number) {
    start_threads = number ? start : nullptr;
    thread_number = number;
}
