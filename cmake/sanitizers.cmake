# Sanitizers for everything that is compiled, for tests alone: -DDENSEPOSE_SANITIZE=address,undefined or =thread.
# Whoever loads the result must preload the sanitizer's library first: tests/robust/sanitizers.py does.
set(DENSEPOSE_SANITIZE "" CACHE STRING "Sanitizers to compile with, as -fsanitize= takes them")
if(DENSEPOSE_SANITIZE)
  # Little optimization keeps the reports' lines true and the kernels fast enough; NDEBUG stays away: asserts count.
  set(CMAKE_CXX_FLAGS_RELEASE "-O1 -g -fno-omit-frame-pointer")
  add_compile_options(-fsanitize=${DENSEPOSE_SANITIZE})
  add_link_options(-fsanitize=${DENSEPOSE_SANITIZE})
endif()
