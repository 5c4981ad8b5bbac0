"""What tests of several kinds share: real clusters, and Pythons that have some packages and no others."""
