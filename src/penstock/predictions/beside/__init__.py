"""What runs in the processes of the pool; nothing else imports it."""
