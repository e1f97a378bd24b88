"""What `tuning` does to a pod's link and sysctls, and how it puts them back."""
