"""The carriers, each behind the same question: what is known of these numbers?"""
