# Oldest supported compilers. CMake prints lines that start with a space without reflowing them.

set(AUTOPATCH_OLDEST_GNU 11)
set(AUTOPATCH_OLDEST_Clang 13)

if(DEFINED AUTOPATCH_OLDEST_${CMAKE_CXX_COMPILER_ID}
   AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS AUTOPATCH_OLDEST_${CMAKE_CXX_COMPILER_ID})
  message(FATAL_ERROR
    " autopatch needs g++ ${AUTOPATCH_OLDEST_GNU} or clang++ ${AUTOPATCH_OLDEST_Clang}, or newer:"
    " ${CMAKE_CXX_COMPILER} is ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION};"
    " set CXX to another compiler")
endif()
