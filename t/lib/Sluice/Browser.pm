# A real Chromium, headless, driven by chromedriver over WebDriver. Only what perl brings itself.
package Sluice::Browser;

use strict;
use warnings;

use Carp       ();
use File::Temp ();
use HTTP::Tiny;
use JSON::PP   ();
use MIME::Base64 ();
use Sluice::Run ();
use Time::HiRes ();

my $json = JSON::PP->new->utf8->allow_nonref->canonical;
# What a key is called in WebDriver.
our %KEY = (Tab => "\x{E004}", Enter => "\x{E007}", Escape => "\x{E00C}", Space => ' ', Left => "\x{E012}", Down => "\x{E015}", Shift => "\x{E008}");

# new(): a browser with one window; it ends with the test.
sub new {
    my ($class, %of) = @_;
    my $port = Sluice::Run::free_port();
    my $dir  = File::Temp::tempdir(CLEANUP => 1);
    my $self = bless { http => HTTP::Tiny->new(timeout => 30, keep_alive => 1), base => "http://127.0.0.1:$port" }, $class;
    $self->{pid} = Sluice::Run::run('chromedriver', "--port=$port", '--log-level=OFF');
    Sluice::Run::wait_until(15, sub { $self->{http}->get("$self->{base}/status")->{success} }) or die "chromedriver did not start: scripts/setup installs it\n";
    # No sandbox, because CI runs as root; nothing that would look for the network outside.
    my @flags = qw(headless no-sandbox disable-gpu disable-dev-shm-usage disable-quic no-first-run disable-background-networking disable-component-update
        disable-sync disable-default-apps hide-scrollbars force-color-profile=srgb force-prefers-reduced-motion);
    my $session = $self->ask(POST => '/session', { capabilities => { alwaysMatch => {
        'goog:chromeOptions' => { args => [ map({"--$_"} @flags), "--user-data-dir=$dir", '--window-size=1440,1000' ] },
        'goog:loggingPrefs'  => { browser => 'ALL' },
    } } });
    $self->{session} = "/session/$session->{sessionId}";
    # The driver, ended before it has been told to end the browser, would leave it behind.
    Sluice::Run::own($self->{browser} = $session->{capabilities}{'goog:processID'});
    return $self;
}

sub ask {
    my ($self, $method, $path, $body) = @_;
    my $answer = $self->{http}->request($method, $self->{base} . $path, $body ? { content => $json->encode($body), headers => { 'Content-Type' => 'application/json' } } : {});
    my $value = eval { $json->decode($answer->{content})->{value} };
    Carp::croak("$method $path: $answer->{status} " . substr($answer->{content}, 0, 600)) unless $answer->{success};
    return $value;
}

sub post { my ($self, $path, $body) = @_; $self->ask(POST => $self->{session} . $path, $body || {}) }
sub open { my ($self, $url) = @_; $self->post('/url', { url => $url }) }

# js($script, @arguments): what the script returns.
sub js {
    my ($self, $script, @arguments) = @_;
    return $self->post('/execute/sync', { script => $script, args => \@arguments });
}

# devtools($command, %parameters): one command of the DevTools protocol.
sub devtools {
    my ($self, $command, %parameters) = @_;
    return $self->post('/goog/cdp/execute', { cmd => $command, params => \%parameters });
}

# size($width, $height): of what is seen.
sub size {
    my ($self, $width, $height, $scale) = @_;
    $self->devtools('Emulation.setDeviceMetricsOverride', width => 0 + $width, height => 0 + $height, deviceScaleFactor => $scale || 1, mobile => JSON::PP::false);
}

# keys(@keys): pressed one after the other, where the focus is. "Shift+Tab" holds Shift.
sub keys {
    my ($self, @keys) = @_;
    my @actions;
    for my $key (@keys) {
        my @held = map { $KEY{$_} || $_ } split /(?<=.)\+/, $key;
        push @actions, map({ { type => 'keyDown', value => $_ } } @held), map({ { type => 'keyUp', value => $_ } } reverse @held);
    }
    $self->post('/actions', { actions => [ { type => 'key', id => 'keyboard', actions => \@actions } ] });
}

# type($text): into what has the focus.
sub type { my ($self, $text) = @_; $self->keys(split //, $text) }

# click($css)
sub click {
    my ($self, $css) = @_;
    my ($id) = values %{ $self->post('/element', { using => 'css selector', value => $css }) };
    $self->post("/element/$id/click");
}

# until_js($seconds, $script, @arguments): whether the script came to return something true.
sub until_js {
    my ($self, $seconds, $script, @arguments) = @_;
    return Sluice::Run::wait_until($seconds, sub { $self->js($script, @arguments) });
}

# text($css): of the first such element, as it is seen; '' if there is none.
sub text { my ($self, $css) = @_; $self->js('const e = document.querySelector(arguments[0]); return e ? e.innerText : ""', $css) }

# console(): what it said since the last time, as { level, source, message }.
sub console { @{ $_[0]->post('/se/log', { type => 'browser' }) } }

# screenshot($file): of what is seen, as PNG.
sub screenshot {
    my ($self, $file) = @_;
    my $png = $self->ask(GET => "$self->{session}/screenshot");
    CORE::open(my $out, '>:raw', $file) or die "$file: $!\n";
    print {$out} MIME::Base64::decode_base64($png);
    close $out or die "$file: $!\n";
}

sub close {
    my $self = shift;
    my $session = delete $self->{session} or return;
    Sluice::Run::disown($self->{browser}) if eval { $self->ask(DELETE => $session); 1 };
}

# Only the test itself ends the browser, not what it forked.
my $main = $$;
sub DESTROY { local ($@, $?, $!); $_[0]->close if $$ == $main }

1;
