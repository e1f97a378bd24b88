"""What `firewall` reads, and how it has firewalld let pods through."""
