package Ledger;

# What the Perl programs here share: the lines by which the test follows their ledger.

use strict;
use warnings;
use Exporter 'import';
use Time::HiRes 'sleep';

our @EXPORT = qw(setting same keep_ledger);

$| = 1;

sub setting {
    my ($name) = @_;
    return $ENV{$name} // die "$name is not set\n";
}

sub same {
    my ($expected, $actual, $what) = @_;
    my ($e, $a) = map { defined $_ ? ref $_ ? join(' ', map { $_ // 'undef' } @$_) : $_ : 'undef' } $expected, $actual;
    $e eq $a or die "$what: expected $e, got $a\n";
}

# Writes numbers until the test says stop. $push writes one and returns Redis' answer to RPUSH, or dies; $again is called
# after that.
sub keep_ledger {
    my ($push, $again) = @_;
    print "ready\n";
    for (my $id = 1; !-e setting('STOP_FILE'); $id++) {
        my $length = eval { $push->($id) };
        if (defined $length) {
            $length > 0 or die "RPUSH: $length\n";
            print "acknowledged $id\n";
        } else {
            my ($why) = split /\n/, $@;
            print $why =~ /^\[\w+\] [A-Z]+ / ? "refused $id $why\n" : "unknown $id $why\n";
            $again->();
        }
        sleep 0.01;
    }
}

1;
