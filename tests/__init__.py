"""A package, as a dependency of weave (cint) installs another of this name, which would else be found first."""
